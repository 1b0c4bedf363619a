"""A program for a GPU: segments of commands, and what the host decides between them.

Runs of commands become segments, which replay as CUDA graphs, branches and while-loops among them where the driver has conditional
nodes. Where it has not, or a check or a step in CuPy is inside, a branch or a loop makes the host wait for one byte. A check does so too;
nothing else waits for the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from hybridml.backends import Backend
from hybridml.errors import GraphError, located
from hybridml.kernels.address import External
from hybridml.kernels.cuda.commands import Clear, Command, Copy, Launch, Library, Loop, Place, When, resolve
from hybridml.kernels.cuda.items import Array, Branch, Eager, Item, Look, Repeat, While
from hybridml.kernels.cuda.segment import Segment
from hybridml.kernels.steps import run_eagerly
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Value


def on_the_device(item: Item) -> Item | When | Loop:
    """A branch or a loop as a command, if all that is inside are commands; anything else stays what it is."""
    if isinstance(item, Branch):
        true, false = _commands(item.true), _commands(item.false)
        return item if true is None or false is None else When(item.predicate, true, false)
    if isinstance(item, While):
        cond, body = _commands(item.cond), _commands(item.body)
        return item if cond is None or body is None else Loop(cond, item.predicate, body)
    return item


def is_recorded(items: Sequence[Item], conditionals: bool) -> bool:
    """True if all is for the device, in one graph, which decides branches and loops if it can (`conditionals`)."""
    return _commands(items) is not None and (
        conditionals or not any(isinstance(i, (Branch, While)) for i in items)
    )


def _commands(items: Sequence[Item]) -> list[Command] | None:
    found = [on_the_device(i) for i in items]
    commands = [c for c in found if isinstance(c, (Launch, Copy, Clear, Library, When, Loop))]
    return commands if len(commands) == len(found) else None


@dataclass
class Call:
    """One run: the addresses of the call's arrays (rows of long scans move), and the stream."""

    externals: list[int]
    stream: int


class Program:
    """Items, in order, ready to run."""

    def __init__(self, items: Sequence[Item], driver: Any, backend: Backend, arrays: list[Array]) -> None:
        self.driver, self.backend, self.arrays = driver, backend, arrays
        self.parts: list[Segment | Branch | While | Repeat | Look | Eager] = []
        self._inner: dict[int, tuple[Program, ...]] = {}
        pending: list[Command] = []
        for item in items:
            command = on_the_device(item) if driver.conditionals else item
            if isinstance(command, (Launch, Copy, Clear, Library, When, Loop)):
                pending.append(command)
                continue
            self._close(pending)
            pending = []
            assert isinstance(item, (Branch, While, Repeat, Look, Eager))
            self.parts.append(item)
            inside = {Branch: ("true", "false"), While: ("cond", "body"), Repeat: ("body",)}.get(
                type(item), ()
            )
            self._inner[id(item)] = tuple(
                [Program(getattr(item, n), driver, backend, arrays) for n in inside]
            )
        self._close(pending)
        writers = self._writers()
        for s in self.segments():
            s.in_part |= {i for i in s.writes if writers[i] > 1}

    def _close(self, commands: list[Command]) -> None:
        if commands:
            self.parts.append(Segment(commands, self.driver, self.arrays))

    def _writers(self) -> Counter[int]:
        """How many segments write each array of the call; who writes a row of it writes it."""
        found: Counter[int] = Counter()
        for part in self.parts:
            if isinstance(part, Segment):
                found.update(part.writes)
            for inner in self._inner.get(id(part), ()):
                found.update(inner._writers())
            for row, place, _ in part.rows if isinstance(part, Repeat) else ():
                if isinstance(place, External):
                    found[place.index] += found[row]
        return found

    def segments(self) -> list[Segment]:
        """All segments, those of branches and loops included."""
        found = []
        for part in self.parts:
            if isinstance(part, Segment):
                found.append(part)
            for inner in self._inner.get(id(part), ()):
                found += inner.segments()
        return found

    def run(self, call: Call) -> None:
        """Do everything once."""
        for part in self.parts:
            if isinstance(part, Segment):
                part.run(call.externals, call.stream)
            elif isinstance(part, Look):
                self._look(part, call)
            elif isinstance(part, Eager):
                self._eager(part, call)
            else:
                self._decide(part, self._inner[id(part)], call)

    def _decide(self, part: Branch | While | Repeat, inner: tuple[Program, ...], call: Call) -> None:
        if isinstance(part, Branch):
            inner[0 if self._is_true(part.predicate, call) else 1].run(call)
        elif isinstance(part, While):
            cond, body = inner
            cond.run(call)
            while self._is_true(part.predicate, call):
                body.run(call)
                cond.run(call)
        else:
            for index, first, _ in part.rows:
                call.externals[index] = resolve(first, call.externals)
            for _ in range(part.length):
                inner[0].run(call)
                for index, _, step in part.rows:
                    call.externals[index] += step

    def _is_true(self, place: Place, call: Call) -> bool:
        return bool(self.driver.read(resolve(place, call.externals), 1, call.stream)[0])

    # what the host does on device memory

    def _array(self, place: Place, v: Value, layout: Layout, call: Call) -> Any:
        """A buffer as an array of the device, seen through a layout."""
        step = v.dtype.itemsize
        start = resolve(place, call.externals) + layout.offset * step
        return self.driver.array(start, layout.shape, v.dtype, tuple([s * step for s in layout.strides]))

    def _operands(self, part: Look | Eager, call: Call) -> list[Any]:
        node = part.check.node if isinstance(part, Look) else part.step.node
        found: list[Any] = []
        for x in node.inputs:
            if isinstance(x, Value):
                base, layout = part.region.places[x]
                found.append(self._array(part.operands[x], base, layout, call))
            else:
                found.append(x)
        return found

    def _look(self, part: Look, call: Call) -> None:
        if self._is_true(part.flag, call):
            self.driver.clear(resolve(part.flag, call.externals), 1, call.stream)
            self._explain(part, call)

    def _explain(self, part: Look, call: Call) -> NoReturn:
        node = part.check.node
        operands = [
            self.backend.get(x) if type(x) is self.backend.array_type else x
            for x in self._operands(part, call)
        ]
        run_eagerly(node, operands)
        raise GraphError(
            located(f"{node.op.name}: the kernel found a fault in operands that have none", node.source)
        )

    def _eager(self, part: Eager, call: Call) -> None:
        node = part.step.node
        results = run_eagerly(node, self._operands(part, call), self.backend.xp)
        for v, r in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            if v in part.results:
                target = self._array(part.results[v], v, Layout.contiguous(v.shape), call)
                self.backend.store(
                    target, self.backend.put(np.asarray(r)) if isinstance(r, (np.ndarray, np.generic)) else r
                )
