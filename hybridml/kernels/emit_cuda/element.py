"""What happens at one element, as a device function of what was loaded for it.

A thread that handles several elements at once calls it for each; it is compiled once:

    @m.device
    def at_element_1(v1, a0, a1):
        v2 = v1 - a0  # subtract
        v3 = m_exp_f32(v2)  # exp
        a1 = a1 + v3
        return v3, a1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybridml.kernels.emit_cuda.tree import names
from hybridml.kernels.spec import Accumulate, Let, Load, Statement, Store
from hybridml.kernels.text import typed


@dataclass(frozen=True)
class Element:
    """Parameters, statements and results; `loads` and `stores` say what must be there before, and where results go.

    Results are the stored values, in the order of `stores`, and then the accumulators.
    """

    name: str
    loads: tuple[Load, ...]
    stores: tuple[Store, ...]
    accumulators: tuple[str, ...]
    lines: tuple[str, ...]
    parameters: tuple[str, ...]

    @property
    def results(self) -> list[str]:
        return [*[s.value for s in self.stores], *self.accumulators]

    def definition(self) -> str:
        """The function's text."""
        body = [*self.lines, f"return {', '.join(self.results)}"]
        head = f"@m.device\ndef {self.name}({', '.join(self.parameters)}):\n"
        return head + "".join(f"    {line}\n" for line in body)

    def call(self, targets: Sequence[str], given: Mapping[str, str]) -> list[str]:
        """The statements that run it with these texts for its parameters, for these names of its results."""
        if not self.lines:  # nothing is computed: what is stored was loaded, or is a scalar of the kernel
            return [f"{t} = {given.get(r, r)}" for t, r in zip(targets, self.results, strict=True)]
        arguments = ", ".join(given.get(p, p) for p in self.parameters)
        return [f"{', '.join(targets)} = {self.name}({arguments})"]


def element(name: str, body: list[Statement]) -> Element:
    """The function of these statements, loads and stores excepted."""
    texts, lines, accumulators, known = [], [], [], set()
    loads = tuple([s for s in body if isinstance(s, Load)])
    stores = tuple([s for s in body if isinstance(s, Store)])
    for s in body:
        if isinstance(s, Let):
            texts.append(s.text)
            lines.append(f"{s.name} = {s.text}" + (f"  # {s.note}" if s.note else ""))
            known.add(s.name)
        elif isinstance(s, Accumulate):
            text = typed(s.combine.format(s.name, s.value), s)
            texts.append(text)
            lines.append(f"{s.name} = {text}")
            accumulators.append(s.name)
        elif not isinstance(s, (Load, Store)):
            raise TypeError(f"{type(s).__name__} has no place in a function of one element")
    parameters = [n for n in names([*texts, *[s.value for s in stores]]) if n not in known]
    return Element(name, loads, stores, tuple(accumulators), tuple(lines), tuple(parameters))
