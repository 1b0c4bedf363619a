"""A program for a GPU: segments of commands, and what the host decides between them.

Runs of commands become segments, which replay as CUDA graphs, branches and while-loops among them where the driver has conditional
nodes. Where the host decides nothing else than how often a long scan is replayed, checks are inside the graphs, too (`faults`). Otherwise a
check ends a segment: it makes the host wait for one byte, and so does a branch or a loop with a check or a step in CuPy inside, or on a
driver without such nodes. Nothing else waits for the device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from hybridml.backends import Backend
from hybridml.kernels.address import External
from hybridml.kernels.cuda.commands import (
    Clear,
    Command,
    Copy,
    Launch,
    Library,
    Look,
    Loop,
    Place,
    When,
    resolve,
)
from hybridml.kernels.cuda.faults import Faults, array, guarded, operands
from hybridml.kernels.cuda.items import Array, Branch, Eager, Item, Repeat, While
from hybridml.kernels.cuda.segment import Segment
from hybridml.kernels.steps import run_eagerly
from hybridml.ops.registry import Layout

PLAIN = Launch, Copy, Clear, Library, When, Loop


def on_the_device(item: Item, checks: bool = False) -> Item | When | Loop:
    """A branch or a loop as a command, if all that is inside are commands (`checks` among them); anything else stays what it is."""
    if isinstance(item, Branch):
        true, false = _commands(item.true, checks), _commands(item.false, checks)
        return item if true is None or false is None else When(item.predicate, true, false)
    if isinstance(item, While):
        cond, body = _commands(item.cond, checks), _commands(item.body, checks)
        return item if cond is None or body is None else Loop(cond, item.predicate, body)
    return item


def is_recorded(items: Sequence[Item], conditionals: bool) -> bool:
    """True if all is for the device, in one graph, which decides branches, loops and checks if it can (`conditionals`)."""
    return _commands(items, conditionals) is not None and (
        conditionals or not any(isinstance(i, (Branch, While)) for i in items)
    )


def _commands(items: Sequence[Item], checks: bool = False) -> list[Command] | None:
    found = [on_the_device(i, checks) for i in items]
    commands: list[Command] = [c for c in found if isinstance(c, (*PLAIN, Look) if checks else PLAIN)]
    return commands if len(commands) == len(found) else None


def _decides_checks(item: Item) -> bool:
    """True if checks among these commands can be left to the device."""
    if isinstance(item, Repeat):
        return _commands(item.body, checks=True) is not None
    return _commands([item], checks=True) is not None


class Program:
    """Items, in order, ready to run. `faults`, where there are checks, is what they find; `waits` says that the host waits for them, as it
    does in what is inside a program that does."""

    def __init__(
        self, items: Sequence[Item], driver: Any, backend: Backend, arrays: list[Array], faults: Faults | None,
        waits: bool = False,
    ) -> None:  # fmt: skip
        self.driver, self.backend, self.arrays, self._faults = driver, backend, arrays, faults
        self.waits = waits or not driver.conditionals or not all(map(_decides_checks, items))
        self.parts: list[Segment | Branch | While | Repeat | Look | Eager] = []
        self._inner: dict[int, tuple[Program, ...]] = {}
        pending: list[Command] = []
        for item in items:
            command = on_the_device(item, checks=not self.waits) if driver.conditionals else item
            if isinstance(command, PLAIN if self.waits else (*PLAIN, Look)):
                pending.append(command)  # type: ignore[arg-type]  # it is one of these
                continue
            self._close(pending)
            pending = []
            assert isinstance(item, (Branch, While, Repeat, Look, Eager))
            self.parts.append(item)
            inside = {Branch: ("true", "false"), While: ("cond", "body"), Repeat: ("body",)}.get(
                type(item), ()
            )
            self._inner[id(item)] = tuple(
                [Program(getattr(item, n), driver, backend, arrays, faults, self.waits) for n in inside]
            )
        self._close(pending)
        writers = self._writers()
        for s in self.segments():
            s.in_part |= {i for i in s.writes if writers[i] > 1}

    def _close(self, commands: list[Command]) -> None:
        if not commands:
            return
        faults = None if self.waits else self._faults
        commands = commands if faults is None else guarded(commands, self._is_variable)
        self.parts.append(Segment(commands, self.driver, self.arrays, faults))

    def _is_variable(self, number: int) -> bool:
        return self.arrays[number].variable

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

    def run(self, externals: list[int], stream: int) -> None:
        """Do everything once. `externals` are the addresses of the call's arrays; those of rows of long scans move."""
        for part in self.parts:
            if isinstance(part, Segment):
                part.run(externals, stream)
            elif isinstance(part, Look):
                assert self._faults is not None, "a check whose byte nobody has"
                self._faults.wait_for(part, externals, stream)
            elif isinstance(part, Eager):
                self._eager(part, externals)
            else:
                self._decide(part, self._inner[id(part)], externals, stream)

    def _decide(
        self, part: Branch | While | Repeat, inner: tuple[Program, ...], externals: list[int], stream: int
    ) -> None:
        if isinstance(part, Branch):
            inner[0 if self._is_true(part.predicate, externals, stream) else 1].run(externals, stream)
        elif isinstance(part, While):
            cond, body = inner
            cond.run(externals, stream)
            while self._is_true(part.predicate, externals, stream):
                body.run(externals, stream)
                cond.run(externals, stream)
        else:
            for index, first, _ in part.rows:
                externals[index] = resolve(first, externals)
            for _ in range(part.length):
                inner[0].run(externals, stream)
                for index, _, step in part.rows:
                    externals[index] += step

    def _is_true(self, place: Place, externals: list[int], stream: int) -> bool:
        return bool(self.driver.read(resolve(place, externals), 1, stream)[0])

    # what the host does on device memory

    def _eager(self, part: Eager, externals: list[int]) -> None:
        node = part.node
        results = run_eagerly(node, operands(part, self.driver, externals), self.backend.xp)
        for v, r in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True):
            if v in part.results:
                at = resolve(part.results[v], externals)
                target = array(self.driver, at, v.dtype, Layout.contiguous(v.shape))
                self.backend.store(
                    target, self.backend.put(np.asarray(r)) if isinstance(r, (np.ndarray, np.generic)) else r
                )
