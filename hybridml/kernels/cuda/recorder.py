"""A CUDA graph under construction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import driver as cu  # type: ignore[import-not-found,import-untyped,unused-ignore]  # comes with numba-cuda

from hybridml.kernels.cuda.blas import WORKSPACE
from hybridml.kernels.cuda.commands import Launch
from hybridml.kernels.cuda.driver import node_parameters
from hybridml.kernels.cuda.status import ok

# With data for each edge, which is None here: CUDA 13 gave the second form of the function the first one's name.
_add_node: Any = getattr(cu, "cuGraphAddNode_v2", None) or getattr(cu, "cuGraphAddNode", None)


class _Graph:
    """Nodes in a line, as they would run on a stream.

    Kernels are nodes of their own, because their arguments are updated later. Library calls, copies and the like are captured from a
    stream of the recorder's, each as a graph inside the graph. Branches and loops are nodes with graphs of their own.
    """

    def __init__(self, recorder: Recorder, graph: Any) -> None:
        self._recorder, self._graph = recorder, graph
        self._driver = recorder.driver
        self._last: list[Any] = []

    def launch(self, command: Launch) -> Any:
        """Add a kernel; returns its node."""
        return self._kernel(node_parameters(command), command)

    def call(self, issue: Callable[[int], None], library: bool) -> None:
        """Add what `issue` sends to a stream; `library` says that it is a library's call."""
        side = self._recorder.side
        workspace = self._recorder.workspace() if library else None
        try:
            with self._driver.capturing(side, workspace):
                issue(int(side))
        finally:
            inner = ok(cu.cuStreamEndCapture(side), "recording a library's call")
        self._last = [ok(cu.cuGraphAddChildGraphNode(self._graph, self._last, len(self._last), inner))]
        ok(cu.cuGraphDestroy(inner))  # the node holds a copy

    def branch(self, predicate: int) -> tuple[_Graph, _Graph]:
        """Add a branch: the graphs for a byte that is true, and for one that is false."""
        when_true, when_false = self._handle(), self._handle()
        self._set(when_true, when_false, predicate)
        kind = cu.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_IF
        return self._conditional(when_true, kind), self._conditional(when_false, kind)

    def guard(self, stop: int) -> _Graph:
        """Add a graph that runs if the byte is false."""
        handle = self._handle()
        self._set(handle, None, 0, stop)
        return self._conditional(handle, cu.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_IF)

    def loop(self, predicate: int, stop: int = 0) -> _Body:
        """Add a loop: the graph that runs as long as a byte is true, and another (if there is one, whose address is not 0) is not.
        `again` ends it."""
        handle = self._handle()
        self._set(handle, None, predicate, stop)
        graph = self._conditional(handle, cu.CUgraphConditionalNodeType.CU_GRAPH_COND_TYPE_WHILE)
        return _Body(self._recorder, graph._graph, handle, stop)

    def _handle(self) -> Any:
        return ok(
            cu.cuGraphConditionalHandleCreate(self._graph, self._driver.context, 0, 0), "a branch in a graph"
        )

    def _conditional(self, handle: Any, kind: Any) -> _Graph:
        p = cu.CUgraphNodeParams()
        p.type = cu.CUgraphNodeType.CU_GRAPH_NODE_TYPE_CONDITIONAL
        p.conditional.handle, p.conditional.type, p.conditional.size = handle, kind, 1
        p.conditional.ctx = self._driver.context
        self._last = [ok(_add_node(self._graph, self._last, None, len(self._last), p), "a branch in a graph")]
        return _Graph(
            self._recorder, cu.CUgraph(int(p.conditional.phGraph_out[0]))
        )  # the node's, which lives as long

    def _set(self, when_true: Any, when_false: Any, predicate: int, stop: int = 0) -> None:
        slots = np.array(
            [int(when_true), int(when_false) if when_false is not None else 0, predicate, stop], np.uint64
        )
        pointers = (slots.ctypes.data + 8 * np.arange(len(slots))).astype(np.uint64)
        p = cu.CUDA_KERNEL_NODE_PARAMS()
        p.func = self._driver.set_condition
        p.gridDimX = p.gridDimY = p.gridDimZ = p.blockDimX = p.blockDimY = p.blockDimZ = 1
        p.sharedMemBytes, p.kernelParams, p.extra = 0, int(pointers.ctypes.data), 0
        self._kernel(p, "the kernel that decides a branch")

    def _kernel(self, parameters: Any, about: Any) -> Any:
        node = ok(cu.cuGraphAddKernelNode(self._graph, self._last, len(self._last), parameters), about)
        self._last = [node]
        return node


class _Body(_Graph):
    """What a loop runs."""

    def __init__(self, recorder: Recorder, graph: Any, handle: Any, stop: int) -> None:
        super().__init__(recorder, graph)
        self._own, self._stop = handle, stop

    def again(self, predicate: int) -> None:
        """Run once more if the byte is true by now, and nothing has stopped the loop."""
        self._set(self._own, None, predicate, self._stop)


class Recorder(_Graph):
    """The outermost graph, with what those inside share: a stream to capture from, and the libraries' workspace."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        super().__init__(self, ok(cu.cuGraphCreate(0)))
        self.side = ok(cu.cuStreamCreate(1))  # CU_STREAM_NON_BLOCKING; nothing ever runs on it
        self._workspace: Any = None

    def workspace(self) -> Any:
        """Of the libraries' calls in this graph."""
        if self._workspace is None:
            self._workspace = self.driver.allocate(WORKSPACE)
        return self._workspace

    def finish(self) -> tuple[Any, ...]:
        """The graph, ready to run; its plan, whose nodes name the kernels when they are updated; and the memory that it uses."""
        ok(cu.cuStreamDestroy(self.side))
        return ok(cu.cuGraphInstantiate(self._graph, 0), "a recorded graph"), self._graph, self._workspace
