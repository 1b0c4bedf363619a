"""Work that other threads may take over: who does it, what errors do, what a fork and the interpreter's end wait for."""

import os
import subprocess
import sys
import threading
import time

import pytest

from hybridml import config
from hybridml.kernels import jit, jobs, llvm
from hybridml.kernels.jobs import Job

KERNEL = "def step_{n}(args, begin, end):\n    args[0] = begin + {n}\n"


@pytest.fixture(autouse=True)
def no_other_threads():
    """Threads that earlier jobs have left lingering are gone first."""
    deadline = time.monotonic() + 20 * jobs.LINGER
    while jobs._threads and time.monotonic() < deadline:
        time.sleep(jobs.LINGER / 10)
    assert not jobs._threads


def name_of_thread():
    return threading.current_thread().name


def test_with_one_thread_nothing_happens_until_a_result_is_asked_for():
    ran = []
    with config.scope(num_threads=1):
        job = Job(lambda: ran.append(name_of_thread()))
    assert not ran
    job.result()
    job.result()
    assert ran == [name_of_thread()]


def test_with_several_threads_somebody_else_does_it():
    done = threading.Event()
    with config.scope(num_threads=2):
        job = Job(lambda: (done.set(), name_of_thread())[1])
    assert done.wait(10)
    assert job.result() == "hybridml-llvm"


def test_no_more_threads_than_the_settings_allow_and_none_lingers():
    gate = threading.Event()
    with config.scope(num_threads=3):
        made = [Job(lambda: (gate.wait(), name_of_thread())[1]) for _ in range(6)]
    assert sum(t.name == "hybridml-llvm" for t in threading.enumerate()) == 2
    gate.set()
    assert len([j.result() for j in made]) == 6
    time.sleep(3 * jobs.LINGER)
    assert not any(t.name == "hybridml-llvm" for t in threading.enumerate())


def test_who_waits_helps():
    """The only other thread is held up, by the job that is asked for: those behind it are done meanwhile, by the one that asks."""
    gate, begun = threading.Event(), threading.Event()
    did = []

    def last():
        did.append(name_of_thread())
        gate.set()

    with config.scope(num_threads=2):
        first = Job(lambda: (begun.set(), gate.wait(20))[1])
        assert begun.wait(10)
        Job(lambda: did.append(name_of_thread()))
        Job(last)
    assert first.result()
    assert did == [name_of_thread()] * 2


def test_an_error_is_raised_where_the_result_is_asked_for_each_time():
    with config.scope(num_threads=2):
        job = Job(lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            job.result()


def test_an_interrupted_job_waits_again():
    tries = []

    def work():
        tries.append(1)
        if len(tries) == 1:
            raise KeyboardInterrupt
        return "done"

    with config.scope(num_threads=1):
        job = Job(work)
    with pytest.raises(KeyboardInterrupt):
        job.result()
    assert job.result() == "done"


def test_many_threads_compile_what_one_does():
    texts = [
        f"define double @f{n}(double %x) {{\n %y = fmul double %x, {float(n)}\n %z = fadd double %y, 1.0\n ret double %z\n}}"
        for n in range(8)
    ]
    alone = [llvm.compile_module(t) for t in texts]
    found = [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda own=own: own.extend(map(llvm.compile_module, texts))) for own in found
    ]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == [alone] * 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_compiles_what_its_parent_had_in_line(empty_cache):
    """Kernels are asked for, none waited for; both processes then use them all."""
    with config.scope(num_threads=2):
        kernels = [jit.load(KERNEL.format(n=n), f"step_{n}") for n in range(4)]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = (
                    0
                    if all(k.address for k in kernels) and jit.load(KERNEL.format(n=9), "step_9").address
                    else 2
                )
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(k.address for k in kernels)


def test_a_kernel_in_the_making_tells_its_times_when_it_is_there(empty_cache):
    with config.scope(num_threads=1):
        kernel = jit.load(KERNEL.format(n=5), "step_5")
    assert kernel.origin == "compiled" and kernel.by == "translator"
    assert kernel.front_seconds > 0 and kernel.llvm_seconds == 0
    before = kernel.seconds
    assert kernel.address
    assert (
        kernel.llvm_seconds > 0 and kernel.waited_seconds >= kernel.llvm_seconds and kernel.seconds > before
    )


def test_a_process_that_ends_does_not_wait_for_what_is_in_line(tmp_path):
    """Nor does it leave a thread inside LLVM: that would end it with a signal."""
    code = (
        "import time\nfrom hybridml.kernels import jobs\n"
        "for _ in range(50):\n    jobs.Job(lambda: time.sleep(0.5))\n"
    )
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "HYBRIDML_NUM_THREADS": "2"}, check=True)
    assert time.monotonic() - started < 15


def test_a_module_that_nobody_closes_may_be_collected():
    """The collector takes the parts of a cycle in any order; a context freed before its module would end the process with a signal."""
    code = (
        "import gc\nfrom hybridml.kernels import llvm\n"
        "for _ in range(20):\n"
        "    module = llvm.Module('define double @f(double %x) { ret double %x }')\n"
        "    module.optimise()\n"
        "    module.parsed.itself, module._context.module = module, module.parsed\n"
        "    del module\n    gc.collect()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


DEADLOCK = """
import faulthandler, os, sys, threading, time
faulthandler.dump_traceback_later(20, exit=True)
from hybridml.trace import background
from hybridml.kernels import compiler, jit

inside, translate = threading.Event(), compiler.translate

def slow(*args):
    translated = translate(*args)
    inside.set()
    time.sleep(0.2)
    return translated

compiler.translate = slow
load = lambda: jit.load("def one(args, begin, end):\\n    args[0] = 1\\n", "one")
"""
ENDINGS = {
    "end": "background.Later(load)\ninside.wait()\n",
    "fork": "threading.Thread(target=load).start()\ninside.wait()\n"
    "child = os.fork()\n"
    "if child == 0:\n    os._exit(0 if load().address else 1)\n"
    "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n",
}


@pytest.mark.parametrize("ending", ENDINGS if hasattr(os, "fork") else ["end"])
def test_a_process_may_end_or_fork_while_a_kernel_is_translated(ending, tmp_path):
    """The thread inside `jit.load` holds its lock, and wants that of the line of jobs next."""
    env = {**os.environ, "HYBRIDML_NUM_THREADS": "2", "HYBRIDML_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", DEADLOCK + ENDINGS[ending]], env=env, check=True)


def test_an_interrupted_module_is_compiled_from_its_text(monkeypatch):
    text = "define double @f(double %x) {\n %y = fmul double %x, 2.0\n ret double %y\n}"
    module, calls = llvm.Module(text), []
    emit = llvm._object_code

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return emit(*args)

    monkeypatch.setattr(llvm, "_object_code", interrupted)
    with pytest.raises(KeyboardInterrupt):
        module.compile()
    assert module.compile() == llvm.compile_module(text)
    module.close()


def test_no_more_target_machines_than_threads_compile_at_a_time(monkeypatch):
    monkeypatch.setattr(llvm, "_idle", {})
    modules = [llvm.Module("define double @f(double %x) { ret double %x }") for _ in range(5)]
    for m in modules:
        m.compile()
        m.close()
    assert [len(machines) for machines in llvm._idle.values()] == [1]


def test_where_no_thread_can_start_the_asker_does_the_work(monkeypatch):
    def refused(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with config.scope(num_threads=2):
        job = Job(name_of_thread)
    assert job.result() == name_of_thread() and jobs._threads == 0
