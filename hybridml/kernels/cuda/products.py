"""Matrix products of a GPU's program: the dtypes that its libraries multiply, and plans of products, those with an epilogue too.

Products of 16-bit elements are summed in float32 and rounded once, as the definition does.
"""

from __future__ import annotations

from dataclasses import replace

from hybridml import config
from hybridml.kernels.cuda.commands import ProductPlan
from hybridml.kernels.cuda.epilogue import PRODUCT
from hybridml.kernels.products import GemmStep, gemm_steps
from hybridml.kernels.views import Place
from hybridml.ops.linalg import MATMUL
from hybridml.trace.graph import Graph, Node, Value

DTYPES = ("float16", "bfloat16", "float32", "float64")


def product_plan(
    m: int, n: int, k: int, dtype: str, ta: bool, tb: bool, batch: int, threads: int, *, lda: int, ldb: int,
    strides: tuple[int, int, int], outer: int = 1, outer_strides: tuple[int, int, int] = (0, 0, 0),
) -> ProductPlan:  # fmt: skip
    """What `gemm_steps` asks for, under the precision that is set."""
    precision = config.get().matmul_precision
    return ProductPlan(m, n, k, dtype, ta, tb, batch, lda, ldb, strides, precision, outer, outer_strides)


def product_steps(graph: Graph, n: Node, places: dict[Value, Place]) -> list[GemmStep] | None:
    """The products that make up a node, or None where the libraries cannot take its operands."""
    if n.op is not PRODUCT:
        return gemm_steps(graph, n, places, 1, product_plan, dtypes=DTYPES)
    flags = {k: n.attrs[k] for k in ("ta", "tb")}
    out = Value(MATMUL.infer(*[v.spec for v in n.values[:2]], **flags))
    plain = Node(MATMUL, n.inputs[:2], flags, (out,))
    steps = gemm_steps(graph, plain, places, 1, product_plan, dtypes=DTYPES)
    assert steps is not None and len(steps) == 1, "a product was taken that is several"
    steps[0].plan = replace(steps[0].plan, epilogue=n.attrs["epilogue"])
    return steps


__all__ = ["DTYPES", "product_plan", "product_steps"]
