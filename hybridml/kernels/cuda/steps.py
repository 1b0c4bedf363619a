"""Steps that only a GPU has: a generated kernel in one launch or two, and the call of a library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hybridml.kernels import launch
from hybridml.kernels.cuda.commands import Kernel
from hybridml.kernels.emit_cuda import Phase
from hybridml.kernels.spec import Mode
from hybridml.kernels.steps import HorizontalStep, KernelStep
from hybridml.trace.graph import Value

At = tuple[Value, int]  # a base value, and how many bytes into it


@dataclass
class CudaStep(KernelStep):
    """One generated kernel, or two where a long reduction is cut into parts."""

    plan: launch.Launch = None  # type: ignore[assignment]  # given by `CudaRegion`, after the fields of the base class
    phases: list[tuple[Phase, Kernel]] = field(default_factory=list)
    partial: list[Value] = field(default_factory=list)  # accumulators of the parts

    @property
    def scratch(self) -> list[tuple[Value, int]]:
        return [*super().scratch, *[(v, v.spec.nbytes) for v in self.partial]]

    @property
    def kind(self) -> str | None:
        """What kernels share that could be one launch: the structure of MAP kernels that go from element to element; None for others."""
        is_plain = self.lowered.spec.mode is Mode.MAP and self.plan.shape.turn is None
        return repr(self.lowered.spec) if is_plain else None


@dataclass
class CudaHorizontalStep(HorizontalStep):
    """Several kernels of one text in one launch."""

    parts: list[CudaStep]  # type: ignore[assignment]  # those of a GPU
    together: Kernel = None  # type: ignore[assignment]  # given by `CudaRegion`, after the fields of the base class
    blocks: list[int] = field(default_factory=list)  # of each part
    copies: int = 0  # sets of operands that the kernel has arguments for

    @property
    def kernel(self) -> Kernel:  # type: ignore[override]  # a CUDA kernel in place of the CPU's
        return self.together

    @property
    def source(self) -> str:
        return self.together.source


@dataclass
class LibraryStep:
    """One call of a library, which the plan describes; operands and results in the plan's order."""

    plan: Any
    operands: tuple[At, ...]
    results: tuple[At, ...]
    name: str
    checks: bool = False
    nanoseconds: float = 0.0
    in_place: tuple[tuple[Value, Value], ...] = ()
    scratch: tuple[tuple[Value, int], ...] = ()

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}: {self.plan.title}"

    @property
    def reads(self) -> tuple[Value, ...]:
        return tuple([v for v, _ in self.operands])

    @property
    def writes(self) -> tuple[Value, ...]:
        return tuple([v for v, _ in self.results])
