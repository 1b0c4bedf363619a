"""What a traced function returns: a nest of its results and of constants, put together at each call."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hybridml import pytree
from hybridml.symbolic import substitute
from hybridml.symbolic.polynomial import Symbol


@dataclass(frozen=True)
class OutputPlan:
    """How to rebuild what the Python function returned: `slots` are output numbers, or constants that are returned as they are."""

    structure: pytree.Structure
    slots: tuple[int | None, ...]
    constants: tuple[Any, ...]

    def at(self, values: Mapping[Symbol, Any]) -> OutputPlan:
        """With sizes among the constants put in."""
        return OutputPlan(self.structure, self.slots, substitute(self.constants, values))

    @cached_property
    def single(self) -> bool:
        """True if the one result is returned as it is."""
        return self.structure is pytree.LEAF and self.slots == (0,)

    @cached_property
    def flat(self) -> bool:
        """True if all results are returned as a tuple."""
        leaves = all(c.node is None for c in self.structure.children)
        return self.structure.node is tuple and leaves and self.slots == tuple(range(len(self.slots)))

    @cached_property
    def filled(self) -> Callable[[Sequence[Any]], Any]:
        """From the results to what the function returned.

        It is made as text, so that no call walks the nest: ``lambda r: {k0: r[0], k1: (r[1], c2, )}``.
        """
        names: dict[str, Any] = {}

        def named(kind: str, x: Any) -> str:
            name = f"{kind}{len(names)}"
            names[name] = x
            return name

        leaves = [
            named("c", c) if slot is None else f"r[{slot}]"
            for slot, c in zip(self.slots, self.constants, strict=True)
        ]
        try:
            made: Callable[[Sequence[Any]], Any] = eval(
                f"lambda r: {_text(self.structure, iter(leaves), named)}", names
            )
        except (SyntaxError, RecursionError, MemoryError):  # a nest too deep for Python's parser
            return self._built
        return made

    def _built(self, results: Sequence[Any]) -> Any:
        leaves = [c if s is None else results[s] for s, c in zip(self.slots, self.constants, strict=True)]
        return pytree.unflatten(self.structure, leaves)


def _text(s: pytree.Structure, leaves: Iterator[str], named: Callable[[str, Any], str]) -> str:
    """An expression for a nest of these leaves."""
    if s.node is None:
        return next(leaves)
    if s.node is type(None):
        return "None"
    if s.node not in (list, tuple, dict):
        given = "".join([f"{leaf}, " for leaf in itertools.islice(leaves, s.n_leaves)])
        return f"{named('b', pytree.builder(s))}(iter(({given})))"
    parts = [_text(c, leaves, named) for c in s.children]
    if s.node is dict:
        keys: Any = s.aux
        items = [f"{named('k', key)}: {part}" for key, part in zip(keys, parts, strict=True)]
        return f"{{{', '.join(items)}}}"
    inside = "".join([f"{p}, " for p in parts])
    return f"[{inside}]" if s.node is list else f"({inside})"
