"""A run of commands with no Python between them: launched one by one at first, then recorded as a CUDA graph and replayed.

The first call launches them plainly, so that libraries are warm and errors name their kernel. The second records. A replay costs the
CPU one call, whatever the number of kernels.

A graph has its addresses built in, and the arrays of a call lie elsewhere each time. Arguments of kernels are patched in the
graph, one node for each kernel that reads the array. What a library reads or writes (its nodes cannot be patched) goes through a
staging buffer: copied before or after the replay, before it too where another segment writes other parts of the array. So do the rows
of a long scan, of which there are many kernels. A variable stays where it is, so nothing is staged for it; when it has moved after
all (somebody held its old value), the graph is recorded again. Branches, loops and what waits for checks are nodes with graphs of their
own, which nothing patches either.

Where CUDA refuses to make a graph of what it did one by one, a warning says so and it stays with that.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

from hybridml.errors import DeviceError
from hybridml.kernels.address import External
from hybridml.kernels.cuda.commands import (
    Clear,
    Command,
    Copy,
    Facts,
    Guard,
    Launch,
    Library,
    Look,
    Loop,
    When,
    lists,
    moved,
    read_and_written,
    resolve,
)
from hybridml.kernels.cuda.faults import Faults

REFUSED = "kernels are launched one by one, because no graph of them can be recorded"


class Segment:
    """Commands, in order. `arrays` are those of the call: their sizes, and which of them are variables. `faults` is what checks among
    the commands find."""

    def __init__(
        self, commands: Sequence[Command], driver: Any, arrays: Sequence[Any], faults: Faults | None = None
    ) -> None:
        self.commands, self.driver, self.facts, self._faults = list(commands), driver, Facts(), faults
        self._stop = faults.stop.address if faults is not None else 0
        self._arrays = arrays
        self._reads, self.writes = self._touched()
        self.in_part: set[int] = set()  # arrays that other segments write too
        self._graph: Any = None
        self._nodes: dict[
            int, list[tuple[Launch, Any]]
        ] = {}  # number of an array -> the launches that point at it
        self._followed: list[int] = []  # those of them that are not staged
        self._at: list[int] = []  # where all arrays of the call were when the graph was last patched
        self._pinned: dict[int, int] = {}  # arrays whose address is built into a library's node
        self._staged: dict[int, Any] = {}
        self._copied: list[tuple[int, int, int]] = []  # before a replay: array, its buffer, bytes
        self._copied_back: list[tuple[int, int, int]] = []  # after it
        self._calls = 0
        self._refused = False  # CUDA made no graph of them

    def _touched(self) -> tuple[set[int], set[int]]:
        """Numbers of the call's arrays that are read, and that are written."""
        reads, writes = set(), set()
        for c in self.commands:
            read, written = read_and_written(c)
            reads |= {p.index for p in read if isinstance(p, External)}
            writes |= {p.index for p in written if isinstance(p, External)}
        return reads, writes

    def run(self, externals: Sequence[int], stream: int) -> None:
        """Do everything once, on a stream; `externals` are the addresses of the call's arrays."""
        driver = self.driver
        for i, pinned in self._pinned.items():
            if externals[i] != pinned:
                self.close()
        if self._graph is None and not self._begun(externals, stream):
            return
        at = self._at
        changed = [i for i in self._followed if externals[i] != at[i]]
        if changed:
            self._patch(changed, externals)
        for i, buffer, nbytes in self._copied:
            driver.copy(buffer, externals[i], nbytes, stream)
        driver.replay(self._graph, stream)
        for i, buffer, nbytes in self._copied_back:
            driver.copy(externals[i], buffer, nbytes, stream)
        self.facts.replayed += 1

    def _begun(self, externals: Sequence[int], stream: int) -> bool:
        """True if there is a graph now. If not, all has been launched one by one."""
        self._calls += 1
        alone = len(self.commands) == 1 and not isinstance(self.commands[0], (Guard, When, Loop))
        if not (self._calls == 1 or alone or self.driver.blocking or self._refused):
            try:
                self._record(externals)
                return True
            except DeviceError as error:
                self._refused = True
                warnings.warn(f"{REFUSED}: {error}", RuntimeWarning, stacklevel=2)
        self._launch(externals, stream)
        return False

    def _launch(self, externals: Sequence[int], stream: int) -> None:
        self._issue_all(self.commands, externals, stream)
        self.facts.launched += 1

    def _issue_all(self, commands: Sequence[Command], externals: Sequence[int], stream: int) -> None:
        """Send commands to a stream, one after the other. The host decides branches and loops and looks at checks: it waits for a byte."""

        def is_true(c: When | Loop) -> bool:
            return bool(self.driver.read(resolve(c.predicate, externals), 1, stream)[0])

        for c in commands:
            if isinstance(c, Look):
                assert self._faults is not None, "a check whose byte nobody has"
                self._faults.wait_for(c, externals, stream)
            elif isinstance(c, Guard):  # the checks before it were fine
                self._issue_all(c.commands, externals, stream)
            elif isinstance(c, When):
                self._issue_all(c.true if is_true(c) else c.false, externals, stream)
            elif isinstance(c, Loop):
                self._issue_all(c.cond, externals, stream)
                while is_true(c):
                    self._issue_all([*c.body, *c.cond], externals, stream)
            else:
                if isinstance(c, Launch):
                    c.point_at(externals)
                issue(self.driver, c, externals, stream)

    def _record(self, externals: Sequence[int]) -> None:
        """Make the graph anew, for arrays that lie at these addresses."""
        self.close()
        inside = {
            p.index
            for c in self.commands
            if not isinstance(c, Launch)
            for places in read_and_written(c)
            for p in places
            if isinstance(p, External)
        }
        inside |= {i for i in (*self._reads, *self.writes) if self._arrays[i].role == "rows"}
        stays = {i for i in inside if self._arrays[i].role == "variable"}
        self._pinned = {i: externals[i] for i in stays}
        for i in sorted(inside - stays):
            if i not in self._staged:
                self._staged[i] = self.driver.allocate(self._arrays[i].nbytes)
        staged = {i: b.ptr for i, b in self._staged.items()}
        at = [staged.get(i, address) for i, address in enumerate(externals)]
        recorder = self.driver.recorder()
        self._nodes, self._at = {}, list(externals)
        for c, node in self._add(recorder, self.commands, at, staged):
            for _, index, _ in c.patches:
                self._nodes.setdefault(index, []).append((c, node))
        self._followed = [i for i in self._nodes if i not in staged]
        sizes = {i: a.nbytes for i, a in enumerate(self._arrays)}
        into = [i for i in staged if i in self._reads or i in self.in_part]
        self._copied = [(i, staged[i], sizes[i]) for i in into]
        self._copied_back = [(i, staged[i], sizes[i]) for i in staged if i in self.writes]
        if self._faults is not None:
            recorder.call(self._faults.report, False)
        self._graph = recorder.finish()
        self.facts.recorded += 1

    def _add(
        self, recorder: Any, commands: Sequence[Command], at: list[int], staged: dict[int, int]
    ) -> list[tuple[Launch, Any]]:
        """Add commands to a graph, and return the kernels, whose arguments can be patched. Those inside branches and loops cannot: what
        they point at is staged."""
        found = []
        for c in commands:
            if isinstance(c, Launch):
                c.point_at(at)
                found.append((c, recorder.launch(c)))
            elif isinstance(c, Guard):
                self._add(recorder.guard(self._stop), c.commands, at, staged)
            elif isinstance(c, When):
                for inner, branch in zip(recorder.branch(resolve(c.predicate, at)), lists(c), strict=True):
                    self._add(inner, branch, at, staged)
            elif isinstance(c, Loop):
                self._add(recorder, c.cond, at, staged)
                predicate = resolve(c.predicate, at)
                inner = recorder.loop(predicate, self._stop)
                self._add(inner, [*c.body, *c.cond], at, staged)
                inner.again(predicate)
            elif not isinstance(c, Look):  # of which the graph's last node tells
                fixed = moved(c, staged)
                recorder.call(
                    lambda stream, fixed=fixed: issue(self.driver, fixed, at, stream), isinstance(c, Library)
                )
        return found

    def _patch(self, changed: Sequence[int], externals: Sequence[int]) -> None:
        """Point the kernels at this call's arrays."""
        nodes: dict[int, tuple[Launch, Any]] = {}
        for i in changed:
            self._at[i] = externals[i]
            for launch, node in self._nodes[i]:
                nodes[id(launch)] = launch, node
        for launch, node in nodes.values():
            for slot, index, offset in launch.patches:
                base = self._staged[index].ptr if index in self._staged else externals[index]
                launch.slots[slot] = base + offset
            self.driver.update(self._graph, node, launch)
        self.facts.patched += len(nodes)

    def close(self) -> None:
        """Give the graph back."""
        if self._graph is not None:
            self.driver.destroy(self._graph)
            self._graph = None

    def __del__(self) -> None:
        if not sys.is_finalizing():  # CUDA may be gone before us
            self.close()


def issue(driver: Any, command: Command, externals: Sequence[int], stream: int) -> None:
    """Send one command to a stream."""
    match command:
        case Launch():
            driver.launch(command, stream)
        case Copy(source, target, nbytes):
            driver.copy(resolve(target, externals), resolve(source, externals), nbytes, stream)
        case Clear(target, nbytes):
            driver.clear(resolve(target, externals), nbytes, stream)
        case Library(plan, reads, writes):
            at = [[resolve(p, externals) for p in places] for places in (reads, writes)]
            driver.library(plan, *at, stream)
