"""Kernels under `config.fast_math`: quotients of float32 become calls, which a target may answer with an approximation.

Other functions are calls already. They are the approximate ones where the kernel's text takes its functions from the target "cuda_fast".
"""

from __future__ import annotations

import ast
from dataclasses import replace

import numpy as np

from hybridml.kernels.spec import KernelSpec, Let, Loop, Statement

SINGLE = np.dtype(np.float32)


class _Quotients(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Div):
            return node
        return ast.Call(ast.Name("m_divide_f32", ast.Load()), [node.left, node.right], [])


def with_calls(spec: KernelSpec) -> KernelSpec:
    """The kernel with every quotient of float32 written as `m_divide_f32(x, y)`."""
    return replace(spec, body=[_statement(s) for s in spec.body])


def _statement(s: Statement) -> Statement:
    if isinstance(s, Loop):
        return replace(s, body=[_statement(t) for t in s.body])
    if isinstance(s, Let) and s.dtype == SINGLE and " / " in s.text:
        return replace(s, text=ast.unparse(_Quotients().visit(ast.parse(s.text, mode="eval"))))
    return s
