"""The native side of the driver and of the thread pool.

This file is a kernel source like the generated ones: `driver` and `pool` read its text and hand it to `jit`.
Addresses are int64, and `layout` says what lies where.
"""

from hybridml.kernels.answer_loops import fill_answer, make_arrays, new_answer, new_list
from hybridml.kernels.language.functions import device
from hybridml.kernels.layout import (
    ACQUIRE_LOCK,
    ARGS,
    ARRAY_DATA,
    ASLEEP,
    BUSY,
    CHECKS,
    CHUNKS,
    DECREF,
    DONE,
    EXTENT,
    FROM_INT,
    FUNCTION,
    HITS,
    INCREF,
    INSTRUCTION_COUNT,
    INSTRUCTIONS,
    JOB_ARGS,
    JOB_EXTENT,
    JOB_FUNCTION,
    JOB_GRAIN,
    LIST_ITEMS,
    MAX_CHUNKS,
    NO_ANSWER,
    OPCODE,
    OWNER,
    PATCH_BYTES,
    PATCH_COUNT,
    PATCH_INDEX,
    PATCH_OFFSET,
    PATCH_SLOT,
    PATCHES,
    POOL,
    POOL_WANTED,
    PROCESS,
    PROGRAM,
    PROGRAM_BUSY,
    RELEASE_LOCK,
    RESTORE_THREAD,
    ROW_BYTES,
    SAVE_THREAD,
    SPIN_LIMIT,
    STOPPING,
    TICKET,
    WAKE_LOCK,
    WANTS_WORKERS,
    WORKER_BYTES,
    WORKER_LINES,
    WORKERS,
    YIELD_THREAD,
    A,
    B,
    C,
    Opcode,
)
from hybridml.kernels.native import (
    atomic_add,
    atomic_load,
    atomic_store,
    call_kernel,
    call_pointer,
    call_pointer_int,
    call_void,
    call_word,
    call_word_word,
    compare_exchange,
    copy_bytes,
    load,
    load_byte,
    pause,
    store,
)
from hybridml.kernels.recognise_loops import fit

RUN = int(Opcode.RUN)
JUMP = int(Opcode.JUMP)
JUMP_IF_FALSE = int(Opcode.JUMP_IF_FALSE)
COUNT_JUMP = int(Opcode.COUNT_JUMP)
SET = int(Opcode.SET)
COPY = int(Opcode.COPY)
MOVE = int(Opcode.MOVE)

SPINS_BEFORE_YIELD = 2048


@device
def run_chunk(function, args, extent, grain, chunks, chunk):
    """Piece number ``chunk`` of an extent: its bounds depend on the table alone, never on the thread."""
    units = (extent + grain - 1) // grain
    begin = units * chunk // chunks * grain
    end = min(units * (chunk + 1) // chunks * grain, extent)
    if begin < end:
        call_kernel(function, args, begin, end)


@device
def take_chunks(pool):
    """Take and run chunks of the job at hand until none is left.

    The compare-exchange succeeds only if the ticket is still the one read before the job's words, and those
    change only when all chunks of the ticket are taken: so they belong to it.
    """
    while True:
        ticket = atomic_load(pool + TICKET)
        chunk = ticket & MAX_CHUNKS
        chunks = (ticket >> 16) & MAX_CHUNKS
        if chunk >= chunks:
            return
        function = atomic_load(pool + JOB_FUNCTION)
        args = atomic_load(pool + JOB_ARGS)
        extent = atomic_load(pool + JOB_EXTENT)
        grain = atomic_load(pool + JOB_GRAIN)
        if compare_exchange(pool + TICKET, ticket, ticket + 1):
            run_chunk(function, args, extent, grain, chunks, chunk)
            atomic_add(pool + DONE, 1)


@device
def wake_workers(pool, wanted):
    """See that ``wanted`` workers are awake, if there are so many; those awake already will find the work."""
    workers = load(pool + WORKERS)
    for worker in range(workers):
        if atomic_load(pool + WORKER_LINES + worker * WORKER_BYTES + ASLEEP) == 0:
            wanted -= 1
    for worker in range(workers):
        if wanted <= 0:
            return
        line = pool + WORKER_LINES + worker * WORKER_BYTES
        if compare_exchange(line + ASLEEP, 1, 0):
            call_pointer(load(pool + RELEASE_LOCK), load(line + WAKE_LOCK))
            wanted -= 1


@device
def share_out(pool, function, args, extent, grain, chunks):
    """Run all chunks on the pool, this thread taking part; return when every one is done.

    The first chunk is this thread's own. So where there are as many chunks as threads, one thread finds again in its cache what it made
    in the instruction before, and in the call before.
    """
    atomic_store(pool + JOB_FUNCTION, function)
    atomic_store(pool + JOB_ARGS, args)
    atomic_store(pool + JOB_EXTENT, extent)
    atomic_store(pool + JOB_GRAIN, grain)
    atomic_store(pool + DONE, 0)
    serial = ((atomic_load(pool + TICKET) >> 32) + 1) & 0x7FFFFFFF
    atomic_store(pool + TICKET, (serial << 32) | (chunks << 16) | 1)
    wake_workers(pool, chunks - 1)
    run_chunk(function, args, extent, grain, chunks, 0)
    atomic_add(pool + DONE, 1)
    take_chunks(pool)
    spins = 0
    while atomic_load(pool + DONE) < chunks:
        pause()
        spins += 1
        if spins % SPINS_BEFORE_YIELD == 0 and load(pool + YIELD_THREAD) != 0:
            call_void(load(pool + YIELD_THREAD))  # a worker may wait for this very processor


@device
def fill_slots(header, items):
    """Write the data addresses of this call's arrays into the argument blocks; ``items`` are the arrays' addresses."""
    patch = load(header + PATCHES)
    for _ in range(load(header + PATCH_COUNT)):
        array = load(items + 8 * load(patch + PATCH_INDEX))
        store(load(patch + PATCH_SLOT), load(array + ARRAY_DATA) + load(patch + PATCH_OFFSET))
        patch += PATCH_BYTES


def run(owner, arguments, count):
    """A program as a built-in function of Python: of a list of arrays, or where the call has rows, of a tuple of arguments.

    Of a list, it returns what `execute` does. Of arguments, the call's answer; or the object that stands for none, if they are others than
    the rows know, if there are no workers although the program wants some, or if another thread is in it; or 0 where there was no memory.
    """
    call = load(owner + ARRAY_DATA)
    has_rows = load(call + CHECKS) != 0
    header, arrays, answer = load(call + PROGRAM), 0, 0
    result, code = load(call + NO_ANSWER), PROGRAM_BUSY
    is_ready = not has_rows or may_run(header)
    if not has_rows:
        arrays = load(arguments)
    elif is_ready:
        answer = new_answer(call)
        arrays = new_list(call)
        if answer == 0 or arrays == 0 or make_arrays(call, load(arrays + LIST_ITEMS)) == 0:
            is_ready, result = False, 0
    if is_ready:
        items = load(arrays + LIST_ITEMS)
        if not has_rows or fit(call, items, load(arguments)):
            code = execute(header, items)
    if not has_rows:
        return call_word_word(load(call + FROM_INT), code)
    if code == PROGRAM_BUSY:
        call_pointer(load(call + DECREF), answer)
        call_pointer(load(call + INCREF), result)
    else:
        fill_answer(call, answer, load(arrays + LIST_ITEMS))
        count_hit(call)
        result = answer
    call_pointer(load(call + DECREF), arrays)
    return result


@device
def count_hit(call):
    hits = load(call + HITS)
    store(hits, load(hits) + 1)


@device
def may_run(header):
    """Whether it is worth while to make a call's arrays: nobody is in the program, and there are workers if it wants some."""
    pool = load(header + POOL)
    has_workers = load(header + WANTS_WORKERS) == 0 or load(pool + WORKERS) != 0
    return has_workers and atomic_load(header + BUSY) != load(pool + PROCESS)


def run_filled(header, unused):
    """A program whose argument blocks Python has filled."""
    return execute(header, unused)


@device
def execute(header, items):
    """Fill the argument blocks, then walk the rows; what it returns stands in `layout`."""
    pool = load(header + POOL)
    process = load(pool + PROCESS)
    holder = atomic_load(header + BUSY)
    if holder == process or compare_exchange(header + BUSY, holder, process) == 0:
        return PROGRAM_BUSY
    fill_slots(header, items)
    save, thread = load(header + SAVE_THREAD), 0
    if save != 0:
        thread = call_word(save)
    first = load(header + INSTRUCTIONS)
    count = load(header + INSTRUCTION_COUNT)
    pool_wanted = 0
    code = 0
    row = 0
    while row < count:
        instruction = first + row * ROW_BYTES
        opcode = load(instruction + OPCODE)
        row += 1
        if opcode == RUN:
            function = load(instruction + FUNCTION)
            args = load(instruction + ARGS)
            extent = load(instruction + EXTENT)
            chunks = load(instruction + CHUNKS)
            if chunks == 1:
                if extent > 0:
                    call_kernel(function, args, 0, extent)
                continue
            grain = load(instruction + A)
            owner = atomic_load(pool + OWNER)
            if load(pool + WORKERS) == 0:
                pool_wanted = POOL_WANTED
            elif owner != process and compare_exchange(pool + OWNER, owner, process):
                share_out(pool, function, args, extent, grain, chunks)
                atomic_store(pool + OWNER, 0)
                continue
            for chunk in range(chunks):  # no pool, or another thread has it: the same chunks, one by one
                run_chunk(function, args, extent, grain, chunks, chunk)
        elif opcode == MOVE:
            store(load(instruction + B), load(load(instruction + C)) + load(instruction + A))
        elif opcode == JUMP:
            row = load(instruction + A)
        elif opcode == JUMP_IF_FALSE:
            if load_byte(load(instruction + B)) == 0:
                row = load(instruction + A)
        elif opcode == COUNT_JUMP:
            counter = load(load(instruction + B)) + 1
            store(load(instruction + B), counter)
            if counter < load(load(instruction + C)):
                row = load(instruction + A)
        elif opcode == SET:
            store(load(instruction + B), load(instruction + C))
        elif opcode == COPY:
            copy_bytes(load(instruction + A), load(instruction + B), load(instruction + C))
        else:
            code = load(instruction + A)
            break
    atomic_store(header + BUSY, 0)
    if save != 0:
        call_pointer(load(header + RESTORE_THREAD), thread)
    return code * 2 + pool_wanted


def work(pool, worker):
    """The life of a pool thread: look for work for a while, sleep on its lock, until the pool stops."""
    line = pool + WORKER_LINES + worker * WORKER_BYTES
    spins = 0
    while atomic_load(pool + STOPPING) == 0:
        ticket = atomic_load(pool + TICKET)
        if ticket & MAX_CHUNKS < (ticket >> 16) & MAX_CHUNKS:
            take_chunks(pool)
            spins = 0
            continue
        spins += 1
        if spins < load(pool + SPIN_LIMIT):
            pause()
            continue
        spins = 0
        atomic_store(line + ASLEEP, 1)
        # Work published before that store has not counted this worker as asleep: look once more.
        ticket = atomic_load(pool + TICKET)
        found = ticket & MAX_CHUNKS < (ticket >> 16) & MAX_CHUNKS or atomic_load(pool + STOPPING) != 0
        if found and compare_exchange(line + ASLEEP, 1, 0):
            continue
        # Asleep until someone clears the flag and releases the lock, which is then taken again for the next
        # time.
        call_pointer_int(load(pool + ACQUIRE_LOCK), load(line + WAKE_LOCK), 1)
