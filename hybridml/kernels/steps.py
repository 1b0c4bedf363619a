"""What an executable does, step by step: generated kernels, routines of our own, Python steps between; and `products`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hybridml.errors import HybridMLError, located
from hybridml.kernels.gemm_cost import Split
from hybridml.kernels.jit import Kernel
from hybridml.kernels.lower import Lowered
from hybridml.kernels.spec import Let, Loop, Mode, Statement, Store
from hybridml.kernels.text import SHORT
from hybridml.kernels.walk import Walk
from hybridml.ops.registry import Kind
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Node, Value, has_effects

if TYPE_CHECKING:
    from hybridml.kernels.control import ControlStep
    from hybridml.kernels.epilogue import Epilogue
    from hybridml.kernels.products import GemmStep
    from hybridml.kernels.sweep import SweepStep

CHUNK_NANOSECONDS = 3000.0  # work that makes a piece worth handing to another thread
_FUNCTION = re.compile(rf"\bm_(?!(?:nearest|{'|'.join(SHORT)})_)")  # those apart that are a few instructions
GRAIN = 64  # elements: pieces begin at cache lines
STRIP = 1024  # elements of each row at least, where threads share out the columns and have little to do but to read them: shorter pieces of
# memory are fetched in advance by both


@dataclass
class KernelStep:
    """One generated kernel."""

    lowered: Lowered
    kernel: Kernel
    source: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]

    def at(self, sizes: Sizes) -> KernelStep:
        """For these sizes: the same kernel, other words."""
        return KernelStep(
            self.lowered.at(sizes), self.kernel, self.source, sizes.all(self.reads), sizes.all(self.writes)
        )

    @property
    def generated(self) -> list[Lowered]:
        """What was lowered for it."""
        return [self.lowered]

    @property
    def in_place(self) -> list[tuple[Value, Value]]:
        """(input, output) pairs that may share memory."""
        return self.lowered.in_place

    @property
    def walks(self) -> tuple[Walk, ...]:
        """How it goes through its operands; empty where that is not known."""
        return self.lowered.walks

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        """Memory that this step alone uses: a key and bytes."""
        return [(v, v.spec.nbytes) for v in self.lowered.temporaries]

    @property
    def checks(self) -> bool:
        """True if it may find its operands at fault and end the call."""
        return self.lowered.check is not None

    @property
    def nanoseconds(self) -> float:
        """A rough estimate of one thread's time, to decide on splitting."""
        return kernel_nanoseconds(self.lowered)

    @property
    def grain(self) -> int:
        """Pieces of an extent that counts elements begin at cache lines; pieces of rows anywhere."""
        spec = self.lowered.spec
        if spec.parallel and any(isinstance(s, Loop) for s in spec.body):
            return 1
        return STRIP if spec.mode is Mode.COLUMN and not _calls(spec.body) else GRAIN

    def chunks(self, threads: int) -> tuple[int, int]:
        """(pieces, grain) for this many threads."""
        return _pieces(self.nanoseconds, self.lowered.extent, self.grain, threads), self.grain


def kernel_nanoseconds(lowered: Lowered) -> float:
    """A rough estimate of one thread's time in a generated kernel."""
    return lowered.work * sum(_cost(s) for s in lowered.spec.body)


def _pieces(nanoseconds: float, extent: int, grain: int, threads: int) -> int:
    if threads == 1:
        return 1
    return max(1, min(2 * threads, int(nanoseconds / CHUNK_NANOSECONDS), -(-extent // grain)))


def _calls(body: Sequence[Statement]) -> bool:
    """Whether statements call a function."""
    return any(
        _calls(s.body) if isinstance(s, Loop) else isinstance(s, Let) and bool(_FUNCTION.search(s.text))
        for s in body
    )


def _cost(s: Statement) -> float:
    """Nanoseconds an element, from what was seen of vectorised loops on one core."""
    if isinstance(s, Loop):
        return sum(_cost(t) for t in s.body)
    if isinstance(s, Let):
        return 0.5 if _FUNCTION.search(s.text) else 0.04
    return 0.15 if isinstance(s, Store) else 0.1


@dataclass
class HorizontalStep:
    """One kernel text over several buffers, as one launch."""

    parts: list[KernelStep]
    checks: bool = False

    def at(self, sizes: Sizes) -> HorizontalStep:
        """For these sizes."""
        return HorizontalStep([p.at(sizes) for p in self.parts])

    @property
    def reads(self) -> tuple[Value, ...]:
        return tuple([v for p in self.parts for v in p.reads])

    @property
    def writes(self) -> tuple[Value, ...]:
        return tuple([v for p in self.parts for v in p.writes])

    @property
    def kernel(self) -> Kernel:
        return self.parts[0].kernel

    @property
    def source(self) -> str:
        return self.parts[0].source

    @cached_property
    def in_place(self) -> list[tuple[Value, Value]]:
        """The parts run in no order, so only the part that writes may read."""
        readers = Counter(v for p in self.parts for v in set(p.reads))
        return [pair for p in self.parts for pair in p.in_place if readers[pair[0]] == 1]

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        return [s for p in self.parts for s in p.scratch]

    @property
    def nanoseconds(self) -> float:
        return sum(p.nanoseconds for p in self.parts)

    @property
    def extents(self) -> list[int]:
        return [p.lowered.extent for p in self.parts]

    def chunks(self, threads: int) -> tuple[int, int]:
        """(pieces, grain) for this many threads."""
        return _pieces(self.nanoseconds, sum(self.extents), self.parts[0].grain, threads), self.parts[0].grain


@dataclass
class RoutineStep:
    """One of our own routines: a kernel with a block of words, some of which are addresses.

    `operands` are (base or scratch value, byte offset, which word takes its address). Threads share it in at most `threads` pieces, and
    in no more than the work is `worth`.
    """

    title: str
    kernel: Kernel
    words: list[int]
    operands: tuple[tuple[Value, int, int], ...]
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    extent: int
    nanoseconds: float  # of one thread
    worth: float = 1.0
    threads: int = 1
    grain: int = 1
    flops: int = 0  # where they say more than nanoseconds
    blocks: tuple[
        tuple[int, tuple[int, ...]], ...
    ] = ()  # (which word takes its address, words of another block)
    checks: bool = False
    in_place: tuple[tuple[Value, Value], ...] = ()
    scratch: tuple[tuple[Value, int], ...] = ()
    carries: int = 0  # the word of an epilogue's kernel, before its arguments' and whether blocks are alone; 0 where it takes none
    fits_block: bool = False
    epilogue: Epilogue | None = None
    own_walks: tuple[Walk, ...] = ()  # of the operands, without an epilogue's; empty where they are not known

    @property
    def generated(self) -> list[Lowered]:
        """What was lowered for it."""
        return [] if self.epilogue is None else [self.epilogue.lowered]

    @cached_property
    def walks(self) -> tuple[Walk, ...]:
        """How it goes through its operands; empty where that is not known."""
        e = self.epilogue
        if e is None or not self.own_walks:
            return self.own_walks
        own = [
            replace(w, value=e.place) if w.value is e.product and e.place is not None else w
            for w in self.own_walks
        ]
        return (*[w for w in own if w.value is not e.product or e.place is e.product], *e.walks(Split.ROWS))

    def carrying(self, e: Epilogue) -> RoutineStep:
        """With an epilogue."""
        operands = [(e.place if v is e.product else v, offset, word) for v, offset, word in self.operands]
        return replace(
            self,
            operands=tuple([(v, offset, word) for v, offset, word in operands if v is not None]),
            reads=(*self.reads, *e.reads),
            writes=e.writes,
            in_place=tuple([(x, o) for x, o in e.in_place if x not in self.reads]),
            scratch=tuple(e.scratch),
            nanoseconds=self.nanoseconds + kernel_nanoseconds(e.lowered),
            epilogue=e,
        )

    def at(self, sizes: Sizes) -> RoutineStep:
        """For these sizes."""
        value = sizes.value
        return replace(
            self,
            words=list(map(sizes, self.words)),
            operands=tuple([(sizes.value(v), sizes(offset), word) for v, offset, word in self.operands]),
            reads=sizes.all(self.reads),
            writes=sizes.all(self.writes),
            extent=sizes(self.extent),
            nanoseconds=sizes(self.nanoseconds),
            worth=sizes(self.worth),
            flops=sizes(self.flops),
            blocks=sizes(self.blocks),
            in_place=tuple([(value(x), value(o)) for x, o in self.in_place]),
            scratch=tuple([(value(v), sizes(n)) for v, n in self.scratch]),
            epilogue=None if self.epilogue is None else self.epilogue.at(sizes),
            own_walks=tuple([w.at(sizes) for w in self.own_walks]),
        )

    @property
    def pieces(self) -> int:
        return max(1, min(self.threads, self.extent, int(self.worth)))


@dataclass
class EmptyStep:
    """A node whose results have no elements: nothing is done, but they have a place."""

    title: str
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    nanoseconds: float = 0.0
    checks: bool = False
    in_place: tuple[tuple[Value, Value], ...] = ()
    scratch: tuple[tuple[Value, int], ...] = ()

    def at(self, sizes: Sizes) -> EmptyStep:
        """For these sizes."""
        return replace(self, reads=sizes.all(self.reads), writes=sizes.all(self.writes))


@dataclass
class PythonStep:
    """A node without a native kernel: its row's eager form, called between two native segments."""

    node: Node
    reads: tuple[Value, ...]
    writes: tuple[Value, ...] = field(default=())
    nanoseconds: float = 1e5
    reason: str = "has no native kernel for these operands"
    checks: bool = False
    in_place: tuple[tuple[Value, Value], ...] = ()
    scratch: tuple[tuple[Value, int], ...] = ()

    def at(self, sizes: Sizes) -> PythonStep:
        """For these sizes."""
        node = sizes.node(self.node)
        return replace(self, node=node, reads=sizes.all(self.reads), writes=sizes.all(self.writes))


Step: TypeAlias = (
    "KernelStep | HorizontalStep | GemmStep | RoutineStep | EmptyStep | PythonStep | ControlStep | SweepStep"
)


def merge_equal_updates(
    steps: list[Step], kind: Callable[[KernelStep], str | None] = lambda step: step.kernel.name
) -> list[Step]:
    """Kernels of one kind whose results nobody reads (updates of parameters) become one horizontal launch at the end."""
    read = {v for s in steps for v in s.reads}
    writers = Counter(v for s in steps for v in s.writes)
    by_kind: dict[str | None, list[KernelStep]] = {}
    for s in steps:
        if (
            isinstance(s, KernelStep)
            and not s.checks
            and not any(v in read or writers[v] > 1 for v in s.writes)
        ):
            by_kind.setdefault(kind(s), []).append(s)
    groups = [group for name, group in by_kind.items() if len(group) > 1 and name is not None]
    moved = {id(s) for group in groups for s in group}
    return [s for s in steps if id(s) not in moved] + [HorizontalStep(group) for group in groups]


def is_empty(n: Node) -> bool:
    """True where there is nothing to do, and no index or value to check."""
    if not n.outputs or any(v.spec.size for v in n.outputs):
        return False
    if n.op.kind is Kind.CONTROL and has_effects(n):
        return False
    if n.op.kind in (Kind.CONTROL, Kind.EFFECT) and n.op.provider is None:
        return False
    return n.op.kind is not Kind.INDEX or not any(v.spec.size for v in n.values[1:])


def run_eagerly(n: Node, operands: list[Any], xp: Any = np) -> Any:
    """A node by its row's eager form on arrays of `xp`; errors name the op and the user's line."""
    try:
        with np.errstate(all="ignore"):
            return n.op.eager(xp, *operands, **n.attrs)
    except HybridMLError as e:
        raise type(e)(located(f"{n.op.name}: {e}", n.source)) from None
