"""Branches and loops as instructions around the steps of their sub-graphs: jumps, counters, and words that point at rows.

No Python runs between iterations. A loop's variables live in the buffers of the node's results: initial values are copied there (or are
there already, where the step may take over their place), and the body overwrites them. Rows of scanned arrays are read and written
where they are; a word for each array points at the row of this iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hybridml.kernels.address import Address, Fixed, Pointer, add_copy
from hybridml.kernels.driver import Table
from hybridml.kernels.memory import ALIGN
from hybridml.kernels.steps import PythonStep
from hybridml.kernels.views import Place, Places
from hybridml.ops.spec import TensorSpec
from hybridml.symbolic import hint
from hybridml.trace.bind import Sizes
from hybridml.trace.graph import Graph, Node, Value, subgraphs

if TYPE_CHECKING:
    from hybridml.kernels.region import Region, Site

_UNKNOWN_TRIPS = 1000.0  # for estimates only


@dataclass
class ControlStep:
    """A node with sub-graphs, all of whose steps are native."""

    node: Node
    reads: tuple[Value, ...]
    regions: dict[str, Region]
    places: Mapping[Value, Place]
    key: Value  # names the scratch memory in the plan of the region around

    def at(self, sizes: Sizes) -> ControlStep:
        """For these sizes."""
        regions = {name: r.at(sizes) for name, r in self.regions.items()}
        return ControlStep(
            sizes.node(self.node), sizes.all(self.reads), regions, Places(self.places, sizes), self.key
        )

    @property
    def writes(self) -> tuple[Value, ...]:
        return self.node.outputs

    @property
    def carried(self) -> int:
        return self.node.attrs.get("carried", 0)

    @property
    def trips(self) -> float:
        """How often a body runs, for estimates."""
        if self.node.op.provider == "cond":
            return 1.0 / len(self.regions)
        return float(hint(self.node.attrs.get("length", self.node.attrs.get("limit"))) or _UNKNOWN_TRIPS)

    @property
    def nanoseconds(self) -> float:
        return self.trips * sum(r.nanoseconds for r in self.regions.values())

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        """One line for a predicate, then the arena of whichever sub-graph runs."""
        return [(self.key, ALIGN + max(r.arena_bytes for r in self.regions.values()))]

    @property
    def in_place(self) -> list[tuple[Value, Value]]:
        """(initial value, result) of loop variables whose initial value nothing else in the loop reads."""
        bases = [self.places[v][0] for v in self.node.values]
        found = []
        for x, out in zip(self.node.values[: self.carried], self.node.outputs, strict=False):
            base, layout = self.places[x]
            whole = layout.is_contiguous and layout.offset == 0 and base.spec.nbytes == out.spec.nbytes
            if whole and bases.count(base) == 1:
                found.append((base, out))
        return found

    @property
    def checks(self) -> bool:
        return any(s.checks for r in self.regions.values() for s in r.steps)

    # the program

    def emit(self, site: Site, at: Mapping[Value, Address]) -> None:
        """Add the instructions; `at` says where bases lie, the site's arena is the scratch memory."""
        operands = [self._operand(v, at) for v in self.node.values]
        results = [at[v] for v in self.node.outputs]
        {"cond": self._emit_cond, "while": self._emit_while, "scan": self._emit_scan}[
            self.node.op.provider or ""
        ](site, operands, results)

    def _inside(self, name: str, site: Site, given: list[Address]) -> None:
        """Add a sub-graph's instructions, its arena behind the predicate's line."""
        self.regions[name].emit(replace(site, base=site.base + ALIGN, given=given))

    def _operand(self, v: Value, at: Mapping[Value, Address]) -> Address:
        base, layout = self.places[v]
        return at[base].at(layout.offset * base.dtype.itemsize)

    def _emit_cond(self, site: Site, operands: list[Address], results: list[Address]) -> None:
        table, base = site.table, site.base
        predicate, *rest = operands
        if not isinstance(predicate, Fixed):
            add_copy(table, predicate, Fixed(base), 1)
            predicate = Fixed(base)
        to_false = table.jump_if_false(predicate.address)
        self._inside("true", site, [*rest, *results])
        to_end = table.jump()
        table.aim(to_false, table.next_row)
        self._inside("false", site, [*rest, *results])
        table.aim(to_end, table.next_row)

    def _start(self, table: Table, operands: list[Address], results: list[Address]) -> None:
        """Loop variables begin in the buffers of the results."""
        for source, destination, v in zip(operands[: self.carried], results, self.node.outputs, strict=False):
            add_copy(table, source, destination, v.spec.nbytes)

    def _emit_while(self, site: Site, operands: list[Address], results: list[Address]) -> None:
        table, base = site.table, site.base
        fixed = operands[self.carried :]
        self._start(table, operands, results)
        top = table.next_row
        self._inside("cond", site, [*results, *fixed, Fixed(base)])
        leave = table.jump_if_false(base)
        self._inside("body", site, [*fixed, *results])
        table.jump(top)
        table.aim(leave, table.next_row)

    def _emit_scan(self, site: Site, operands: list[Address], results: list[Address]) -> None:
        table = site.table
        attrs, c = self.node.attrs, self.carried
        length, xs, ys = attrs["length"], operands[c : c + attrs["sliced"]], results[c:]
        self._start(table, operands, results)
        if not length:
            return
        arrays = [*self.node.values[c : c + len(xs)], *self.node.outputs[c:]]
        steps = [v.spec.nbytes // length * (-1 if attrs["reverse"] else 1) for v in arrays]
        words = [table.block([0]) for _ in arrays]
        for word, where, step in zip(words, [*xs, *ys], steps, strict=True):
            where.at((length - 1) * -step if step < 0 else 0).move_to(table, word)
        rows = [Pointer(word) for word in words]
        counter, limit = table.block([0]), table.block([length])
        table.set(counter, 0)
        top = table.next_row
        self._inside(
            "body", site, [*rows[: len(xs)], *operands[c + len(xs) :], *results[:c], *rows[len(xs) :]]
        )
        for word, step in zip(words, steps, strict=True):
            if step:
                table.move(word, word, step)
        table.count_jump(counter, limit, top)


def step(
    n: Node, reads: tuple[Value, ...], places: Mapping[Value, Place], build: Callable[[Graph], Region]
) -> ControlStep | PythonStep:
    """The native form of a node with sub-graphs; all of it runs in Python where one of them needs Python."""
    graphs = subgraphs(n)
    regions: dict[str, Any] = {}
    for name, graph in graphs.items():
        regions[name] = build(_with_state(graph, n.attrs["carried"]) if name == "body" else graph)
        inside = [s for s in regions[name].steps if isinstance(s, PythonStep)]
        if inside:
            names = ", ".join(dict.fromkeys(s.node.op.name for s in inside))
            return PythonStep(
                n, reads, n.outputs, checks=True, reason=f"has no native kernel for {names} inside `{name}`"
            )
    return ControlStep(n, reads, regions, places, Value(TensorSpec((0,), "uint8"), f"scratch of {n.op.name}"))


def _with_state(body: Graph, carried: int) -> Graph:
    """A loop body with its carry as variables."""
    return body.replace(
        inputs=body.inputs[carried:],
        variables=body.inputs[:carried],
        outputs=body.outputs[carried:],
        updates=tuple(enumerate(body.outputs[:carried])),
    )
