"""What the checks of a program find, and when it is told.

All checks of a program share a byte, which kernels set. Where the host decides nothing on the way, nobody waits for it: what changes
variables runs only if the byte is clear (`guarded`), loops end once it is set, and the last node of each graph copies it to the host. It
is looked at when the program is called again, and when somebody asks for values of this device. By then the memory that the check read
may hold something else, so the operations of the last call run again one by one, by the rows' eager forms, until one raises.

A variable never takes a value that a failed check belongs to: before another program, or an eager assignment, changes one, the host
waits for programs that are on their way (`Backend.settle`).

In programs with decisions of the host, and where kernels are launched one by one, it waits for the byte after each check (`wait_for`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from hybridml.backends import Backend
from hybridml.errors import CheckError, GraphError, HybridMLError, located
from hybridml.kernels.address import External, Fixed
from hybridml.kernels.cuda.commands import Command, Guard, Look, read_and_written, resolve
from hybridml.kernels.cuda.items import Eager
from hybridml.kernels.steps import run_eagerly
from hybridml.ops.registry import Layout
from hybridml.trace.graph import Graph, Node, Value

LATE = (
    "This was found on {device} after the call had returned: results of `{name}` since then mean nothing, and variables that it "
    "assigns are as they were. With CUDA_LAUNCH_BLOCKING=1 in the environment each call waits for its checks"
)


def guarded(commands: Sequence[Command], is_variable: Callable[[int], bool]) -> list[Command]:
    """The commands, those that change variables (which the plan of the memory puts behind the last check) only where no check failed."""
    written = [[p.index for p in read_and_written(c)[1] if isinstance(p, External)] for c in commands]
    found = [i for i, numbers in enumerate(written) if any(map(is_variable, numbers))]
    if not found:
        return list(commands)
    first, end = found[0], found[-1] + 1
    return [*commands[:first], Guard(list(commands[first:end])), *commands[end:]]


def operands(part: Look | Eager, driver: Any, externals: Sequence[int]) -> list[Any]:
    """What the node reads, as arrays of the device."""
    found: list[Any] = []
    for x in part.node.inputs:
        if isinstance(x, Value):
            base, layout = part.region.places[x]
            at = resolve(part.operands[x], externals)
            found.append(array(driver, at, base.dtype, layout))
        else:
            found.append(x)
    return found


def array(driver: Any, address: int, dtype: np.dtype, layout: Layout) -> Any:
    """A buffer at this address, seen through a layout."""
    step = dtype.itemsize
    strides = tuple([s * step for s in layout.strides])
    return driver.array(address + layout.offset * step, layout.shape, dtype, strides)


class Faults:
    """The byte of a program, and what it takes to say what was wrong. `owner` is whose last call `driver.leave` has noted."""

    def __init__(self, graph: Graph, driver: Any, backend: Backend, owner: Any) -> None:
        self._graph, self._driver, self._backend, self._owner = graph, driver, backend, owner
        self._byte = driver.upload(np.zeros(1, np.bool_))
        self.stop = Fixed(self._byte.ptr)
        self._seen = driver.pinned(1)  # on the host, where the graph copies the byte
        self._given: list[Any] = []  # inputs and variables of the last call

    # where the host waits

    def wait_for(self, look: Look, externals: Sequence[int], stream: int) -> None:
        """Raise what the node's eager form says where the check has failed. Its operands are as the kernel found them."""
        if not self._driver.read(self.stop.address, 1, stream)[0]:
            return
        self._driver.clear(self.stop.address, 1, stream)
        on_host = [
            self._backend.get(x) if type(x) is self._backend.array_type else x
            for x in operands(look, self._driver, externals)
        ]
        run_eagerly(look.node, on_host)
        raise GraphError(_unfounded(look.node))

    # where it does not

    def report(self, stream: int) -> None:
        """Copy the byte to the host, in the order of the stream."""
        self._driver.to_host(self._seen.ptr, self.stop.address, 1, stream)

    def left(self, given: list[Any]) -> None:
        """A call is on its way, with these inputs and variables; nobody has looked at its checks."""
        self._given = given
        self._backend.unseen.add(self)

    def look(self, wait: bool = False) -> None:
        """Raise what a check has found by now, or by the time that the last call is done. Then there is no more to be seen of it."""
        if wait:
            self._driver.finish(self._owner)
        is_done = self._driver.is_done(self._owner)  # asked first: what comes meanwhile is seen the next time
        self.tell()
        if is_done:
            self._backend.unseen.discard(self)
            self._given = []

    def tell(self) -> None:
        """Raise what a check has found in an earlier call, if it has been copied here; the program can go on then."""
        if not self._seen.bytes[0]:
            return
        with self._owner.lock:  # no call comes between
            if self._seen.bytes[0]:
                stream = self._driver.finish(self._owner)
                self._driver.clear(self.stop.address, 1, stream)
                self._seen.bytes[0] = 0
                self._backend.unseen.discard(self)
                given, self._given = self._given, []
                self._explain(given)

    def _explain(self, given: list[Any]) -> NoReturn:
        late = LATE.format(device=self._backend.name, name=self._graph.name)
        try:
            with self._backend.scope():
                self._run_again(given)
        except HybridMLError as error:
            raise type(error)(f"{error}\n{late}") from None
        raise CheckError(
            f"a check in `{self._graph.name}` failed, in a call before the last one, whose arguments are gone. {late}, and says which"
        )

    def _run_again(self, given: list[Any]) -> None:
        """The graph's nodes, one by one, as far as the first one that raises."""
        g, xp = self._graph, self._backend.xp
        values: dict[Value, Any] = dict(zip((*g.inputs, *g.variables), given, strict=True))
        values |= {v: xp.asarray(a) for v, a in g.constants.items()}
        for n in g.nodes:
            out = run_eagerly(n, [values[x] if isinstance(x, Value) else x for x in n.inputs], xp)
            values.update(zip(n.outputs, out if isinstance(out, tuple) else (out,), strict=True))


def _unfounded(node: Node) -> str:
    return located(f"{node.op.name}: the kernel found a fault in operands that have none", node.source)
