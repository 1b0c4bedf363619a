"""What a GPU is told to do, and how the arguments of a launch lie in memory.

Addresses are `Fixed` (arena, constants, staging buffers) or `External` (an array of the call, by number). A launch's arguments are
packed once; before a call only those that point at arrays of the call are written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from hybridml.kernels.address import External, Fixed
from hybridml.kernels.cuda.epilogue import NOTHING, Epilogue
from hybridml.kernels.emit_cuda import Parameter

if TYPE_CHECKING:
    from hybridml.kernels.region import Region
    from hybridml.trace.graph import Node, Value

Place = Fixed | External
Grid = tuple[int, int]


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel: the driver's handle, its text, and where it came from ("compiled", "disk" or "memory")."""

    name: str
    source: str
    parameters: tuple[Parameter, ...]
    handle: Any
    origin: str
    seconds: float

    @property
    def by(self) -> str:
        """Who compiled it now: PTX is Numba's."""
        return "numba" if self.origin == "compiled" else ""


def resolve(place: Place, externals: Sequence[int]) -> int:
    """The address for a call whose arrays lie at `externals`."""
    return place.address if isinstance(place, Fixed) else externals[place.index] + place.offset


class Launch:
    """One kernel over a grid. `words` are its arguments in order: a place for a pointer, else the value.

    A block gets `shared` bytes of shared memory beside what stands in the text. Each argument has eight bytes of its own in `slots`;
    `pointers` holds their addresses, which is what CUDA is given.
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: Grid,
        block: Grid,
        words: Sequence[Any],
        shared: int = 0,
    ) -> None:
        self.kernel, self.grid, self.block, self.shared = kernel, grid, block, shared
        self.places = {i: w for i, w in enumerate(words) if isinstance(w, (Fixed, External))}
        self.form: Any = None  # what CUDA's graphs have it as, once it was made
        self.slots = np.zeros(max(len(words), 1), np.uint64)
        self.pointers = (self.slots.ctypes.data + 8 * np.arange(len(self.slots))).astype(np.uint64)
        for i, (w, p) in enumerate(zip(words, kernel.parameters, strict=True)):
            if isinstance(w, Fixed):
                self.slots[i] = w.address
            elif not p.pointer:
                raw = np.asarray(w).astype(p.dtype).tobytes()
                self.slots.view(np.uint8)[8 * i : 8 * i + len(raw)] = np.frombuffer(raw, np.uint8)
        self.patches = [
            (i, w.index, w.offset) for i, w in self.places.items() if isinstance(w, External)
        ]  # slot, number of the array, byte offset

    @property
    def title(self) -> str:
        """For errors."""
        return f"kernel {self.kernel.name}, grid {self.grid}, block {self.block}, {self.shared} bytes of shared memory"

    def point_at(self, externals: Sequence[int]) -> None:
        """Write the arguments that point at arrays of the call."""
        for slot, index, offset in self.patches:
            self.slots[slot] = externals[index] + offset


@dataclass
class Copy:
    """Bytes from one place to another."""

    source: Place
    target: Place
    nbytes: int


@dataclass
class Clear:
    """Zero bytes."""

    target: Place
    nbytes: int


@dataclass(frozen=True)
class ProductPlan:
    """c = op(a) @ op(b), row-major, `batch` times at these strides in elements. Leading dimensions count elements of a row."""

    m: int
    n: int
    k: int
    dtype: str
    ta: bool
    tb: bool
    batch: int
    lda: int
    ldb: int
    strides: tuple[int, int, int]
    precision: str  # "float32", "tf32" or "bfloat16": what float32 operands are rounded to
    outer: int = 1  # that many library calls, at these strides
    outer_strides: tuple[int, int, int] = (0, 0, 0)
    epilogue: Epilogue = NOTHING  # what is done to the result; only where outer is 1

    @property
    def title(self) -> str:
        batch = f"{self.batch} x " * (self.batch > 1)
        after = f", then {self.epilogue}" if self.epilogue else ""
        computed = self.precision if self.dtype == "float32" else self.dtype
        return f"{batch}{self.m} x {self.k} x {self.n} in {computed}{after}"


@dataclass
class Library:
    """One call of a library, which the plan describes: what it reads and what it writes, in the plan's order."""

    plan: Any
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]


@dataclass
class Look:
    """A check that the kernel before has made of these operands. Where the host waits for it, it comes here."""

    node: Node
    operands: dict[Value, Place]
    region: Region


@dataclass
class Guard:
    """What happens only if no check of the program has failed."""

    commands: list[Command]


@dataclass
class When:
    """A branch that the device decides: one of two lists, by a byte."""

    predicate: Place
    true: list[Command]
    false: list[Command]


@dataclass
class Loop:
    """A loop that the device decides: `cond` writes a byte, and `body` and `cond` run as long as it is true and no check has failed."""

    cond: list[Command]
    predicate: Place
    body: list[Command]


Command: TypeAlias = "Launch | Copy | Clear | Library | Look | Guard | When | Loop"
Nested: TypeAlias = "Guard | When | Loop"  # commands with commands inside


def read_and_written(command: Command) -> tuple[list[Place], list[Place]]:
    """What a command reads, and what it writes. A launch writes its operands `o0`, `o1`... (and may read them back)."""
    if isinstance(command, Launch):
        named = [(command.kernel.parameters[i].name, p) for i, p in command.places.items()]
        return [p for n, p in named if n[0] == "x"], [p for n, p in named if n[0] != "x"]
    if isinstance(command, Copy):
        return [command.source], [command.target]
    if isinstance(command, Library):
        return list(command.reads), list(command.writes)
    if isinstance(command, (Guard, When, Loop)):
        inner = [read_and_written(c) for commands in lists(command) for c in commands]
        read = [p for places, _ in inner for p in places]
        decides = [] if isinstance(command, Guard) else [command.predicate]
        return [*decides, *read], [p for _, places in inner for p in places]
    return [], [command.target] if isinstance(command, Clear) else []


def lists(command: Nested) -> tuple[list[Command], ...]:
    """The commands inside."""
    if isinstance(command, Guard):
        return (command.commands,)
    return (command.true, command.false) if isinstance(command, When) else (command.cond, command.body)


def moved(command: Command, staged: dict[int, int]) -> Command:
    """The command with arrays of the call replaced by the staging buffers at these addresses. Launches stay as they are."""

    def place(p: Place) -> Place:
        if isinstance(p, External) and p.index in staged:
            return Fixed(staged[p.index] + p.offset)
        return p

    if isinstance(command, Copy):
        return Copy(place(command.source), place(command.target), command.nbytes)
    if isinstance(command, Library):
        return Library(command.plan, tuple(map(place, command.reads)), tuple(map(place, command.writes)))
    if isinstance(command, Clear):
        return Clear(place(command.target), command.nbytes)
    return command


@dataclass
class Facts:
    """What a segment did, for tests and for `explain`: how often it recorded, replayed and patched."""

    recorded: int = 0
    replayed: int = 0
    patched: int = 0
    launched: int = 0
    notes: list[str] = field(default_factory=list)
