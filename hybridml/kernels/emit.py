"""KernelSpec to Python source for Numba on the CPU.

The text of a row-wise softmax, for example, is

    def exp_max_subtract_sum_divide(args, begin, end):
        x0 = float32_in(args, 0, 0)
        o0 = float32_out(args, 1, 1)
        n_i = size(args, 2)
        ...
        for i in range(begin, end):
            a0 = c0
            for jb in range(0, n_j, BLOCK):              # pass 1: the largest of the row
                p0 = c0
                for j in range(jb, min(jb + BLOCK, n_j)):
                    v0 = x0[i * x0_i + j]
                    p0 = lane_maximum_f32(p0, v0)
                a0 = m_maximum_f32(a0, p0)
            ...

Sums run in blocks whose partial sums are added up, and within a block in the vector's lanes: faster and more accurate than one long
chain of additions (the idea of NumPy's pairwise summation).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from hybridml.kernels.spec import (
    Accumulate,
    Accumulator,
    Flag,
    KernelSpec,
    Let,
    Load,
    Loop,
    Statement,
    Store,
    suffix,
)
from hybridml.kernels.text import CALL, Lines, typed

BLOCK = 1024  # elements of a reduction that are added up by themselves
PIECE = 128  # elements between which arithmetic and the memory bus take turns


def emit(spec: KernelSpec) -> tuple[str, str]:
    """(name, source) of the kernel; equal structures give equal text."""
    out = Lines()
    out.depth = 1
    read_arguments(out, spec, 0)
    _near_buffers(out, spec)
    flagged = set(_flagged(spec.body))
    flags = [o.name for o in spec.operands if o.name in flagged]
    for name in (
        flags
    ):  # kept in a register, and stored once: a store in the loop would keep it from being vectorised
        out(f"bad_{name} = False")
    if spec.parallel:
        _parallel(out, spec)
    elif _splits(spec.body):
        statements(out, spec.body)
    else:
        out.open("for _ in range(begin, end):")
        statements(out, spec.body)
        out.close()
    for name in flags:
        out.open(f"if bad_{name}:")
        out(f"{name}[0] = True")
        out.close()
    if spec.near:
        out("stream_end()")
    return finished(out, spec, "args, begin, end")


def read_arguments(out: Lines, spec: KernelSpec, given: int) -> None:
    """The lines that read the argument block, but for the first operands, which are `given` otherwise."""
    word = 0
    for number, operand in enumerate(spec.operands[given:], start=given):
        way = "out" if operand.written else "in"
        out(f"{operand.name} = {operand.dtype.name}_{way}(args, {word}, {number})")
        word += 1
    for name in spec.words:
        out(f"{name} = size(args, {word})")
        word += 1
    for scalar in spec.scalars:
        out(f"{scalar.name} = {scalar.dtype.name}_scalar(args, {word})")
        word += 1


def _near_buffers(out: Lines, spec: KernelSpec) -> None:
    if spec.near:
        sizes = [PIECE * o.dtype.itemsize for o in spec.near]
        out(f"near = scratch({sum(sizes)})")
        for k, o in enumerate(spec.near):
            out(f"{o.name} = {o.dtype.name}_to(near + {sum(sizes[:k])}, {len(spec.operands) + k})")


def finished(
    out: Lines, spec: KernelSpec, parameters: str, sums: tuple[str, Lines] | None = None
) -> tuple[str, str]:
    """(name, source) of a kernel whose body has been written; `sums` are the parameters and the body of a second function, `name_sums`."""
    body = "\n".join(out.text)
    rest = "" if sums is None else "\n".join(sums[1].text)
    digest = hashlib.sha256((body + rest).encode()).hexdigest()[:12]
    name = f"{spec.title[:60]}_{digest}"
    second = "" if sums is None else f"\n\ndef {name}_sums({sums[0]}):\n{rest}\n"
    return name, f"{_header(body + rest)}\n\ndef {name}({parameters}):\n{body}\n{second}"


def _header(body: str) -> str:
    pointers = sorted(
        set(re.findall(r"\b\w+_(?:in|out|scalar|at|to)(?=\((?:args|at|near [+] \d+),)", body)) | {"size"}
    )
    used = sorted(set(CALL.findall(body)))
    lines = [f"from hybridml.kernels.pointer import {', '.join(pointers)}"]
    if "near = " in body:
        lines.append("from hybridml.kernels.gemm_tile import scratch")
        lines.append("from hybridml.kernels.stream_loops import ahead, stream, stream_end")
    lanes = [u for u in used if u.startswith("lane_")]
    if lanes:
        lines.append(f"from hybridml.kernels.lanes import {', '.join(lanes)}")
    functions = [u for u in used if not u.startswith("lane_")]
    if functions:
        lines += ["from hybridml.kernels.targets import scalar_functions", "", 'm = scalar_functions("cpu")']
        lines += [f"{f} = m.{f}" for f in functions]
    lines += [f"{name} = {value}" for name, value in (("BLOCK", BLOCK), ("PIECE", PIECE)) if name in body]
    return "\n".join(lines) + "\n"


def _splits(body: list[Statement]) -> bool:
    """True if a loop of the body runs over the kernel's own extent."""
    return any(isinstance(s, Loop) and (s.split or _splits(s.body)) for s in body)


def _flagged(body: list[Statement]) -> Iterator[str]:
    """The names of the operands that statements of the body flag."""
    for s in body:
        if isinstance(s, Loop):
            yield from _flagged(s.body)
        elif isinstance(s, Flag):
            yield s.operand.name


def _parallel(out: Lines, spec: KernelSpec) -> None:
    axes = spec.parallel
    if len(axes) == 1:
        out.open(f"for {axes[0].name} in range(begin, end):")
    else:
        out.open("for r in range(begin, end):")
        rest = "r"
        for position, axis in enumerate(reversed(axes)):
            if position == len(axes) - 1:
                out(f"{axis.name} = {rest}")
            else:
                out(f"{axis.name} = {rest} % {axis.size}")
                if position < len(axes) - 2:
                    out(f"r{position} = {rest} // {axis.size}")
                    rest = f"r{position}"
                else:
                    rest = f"{rest} // {axis.size}"
    statements(out, spec.body)
    out.close()


def statements(out: Lines, body: list[Statement]) -> None:
    for s in body:
        match s:
            case Load(name, operand, index):
                out(f"{name} = {operand.name}[{index}]")
            case Let(name, text, _, note):
                out(f"{name} = {text}" + (f"  # {note}" if note else ""))
            case Store(operand, index, value):
                out(f"{operand.name}[{index}] = {value}")
            case Flag(operand, when):
                out(f"bad_{operand.name} = True if {when} else bad_{operand.name}")
            case Accumulate():
                out(f"{s.name} = {_step(s.name, s.value, s)}")
            case Loop() if s.reduces:
                for a in s.reduces:
                    out(f"{a.name} = {a.identity}")
                _reduction(out, s, s.reduces)
            case Loop() if s.streams:
                _pieces(out, s)
            case Loop():
                bounds = "begin, end" if s.split else s.axis.size
                out.open(f"for {s.axis.name} in range({bounds}):")
                statements(out, s.body)
                out.close()


def _step(accumulator: str, value: str, s: Accumulate) -> str:
    if s.lanes is not None:
        return f"lane_{s.lanes}_{suffix(s.dtype)}({accumulator}, {value})"
    return typed(s.combine.format(accumulator, value), s)


def _pieces(out: Lines, loop: Loop) -> None:
    """A loop some of whose results go past the caches: that, what will be read soon and the work take turns."""
    j, n = loop.axis.name, loop.axis.size
    out.open(f"for {j}p in range(0, {n}, PIECE):")
    piece = f"min(PIECE, {n} - {j}p)"
    for soon in loop.ahead:
        out(f"ahead({soon.operand.name}, {soon.begin}, {piece})")
    out.open(f"for {j} in range({j}p, {j}p + {piece}):")
    statements(out, loop.body)
    out.close()
    for past in loop.streams:
        out(f"stream({past.operand.name}, {past.begin}, {past.near.name}, {piece})")
    out.close()


def _reduction(out: Lines, loop: Loop, accumulators: tuple[Accumulator, ...]) -> None:
    """The loops of a reduction; the innermost one runs in blocks with partial results."""
    inner = [s for s in loop.body if isinstance(s, Loop)]
    if inner:
        out.open(f"for {loop.axis.name} in range({loop.axis.size}):")
        for s in loop.body:
            if isinstance(s, Loop):
                _reduction(out, s, accumulators)
            else:
                statements(out, [s])
        out.close()
        return
    j, n = loop.axis.name, loop.axis.size
    partial = {a.name: f"p{a.name[1:]}" for a in accumulators}
    steps = {s.name: s for s in loop.body if isinstance(s, Accumulate)}
    out.open(f"for {j}b in range(0, {n}, BLOCK):")
    for a in accumulators:
        out(f"{partial[a.name]} = {a.identity}")
    out.open(f"for {j} in range({j}b, min({j}b + BLOCK, {n})):")
    for t in loop.body:
        if isinstance(t, Accumulate):
            out(f"{partial[t.name]} = {_step(partial[t.name], t.value, t)}")
        else:
            statements(out, [t])
    out.close()
    for a in accumulators:
        s = steps[a.name]
        out(f"{a.name} = {typed(s.combine.format(a.name, partial[a.name]), s)}")
    out.close()
