"""hybridml: eager by default, traced on request."""

import math as _math
import typing as _typing

from hybridml import errors, initializers, linalg, nn, random
from hybridml.backends import device, devices
from hybridml.dtypes import (
    bfloat16,
    bool_,
    can_cast,
    finfo,
    float16,
    float32,
    float64,
    iinfo,
    int8,
    int16,
    int32,
    int64,
    isdtype,
    result_type,
    uint8,
    uint16,
    uint32,
    uint64,
)
from hybridml.eager import compose as _compose
from hybridml.eager import methods as _methods
from hybridml.eager.checkpoint import checkpoint
from hybridml.eager.creation import (
    arange,
    asarray,
    empty,
    eye,
    from_dlpack,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    zeros,
    zeros_like,
)
from hybridml.eager.custom_gradient import custom_gradient
from hybridml.eager.effects import print, py_function
from hybridml.eager.state import init_scope, inside_function, traced_form
from hybridml.eager.tape import GradientTape
from hybridml.eager.tensor import Tensor
from hybridml.eager.transforms import grad, hessian, jacobian, jvp, value_and_grad, vjp
from hybridml.eager.variable import Variable
from hybridml.eager.vmap import vmap
from hybridml.ops.registry import PUBLIC as _PUBLIC
from hybridml.ops.spec import TensorSpec
from hybridml.trace.concrete import ConcreteFunction
from hybridml.trace.control.functions import cond, while_loop
from hybridml.trace.control.scans import map_fn, scan
from hybridml.trace.function import function, run_functions_eagerly
from hybridml.trace.graph import Graph

e, inf, nan, newaxis, pi = _math.e, _math.inf, _math.nan, None, _math.pi
bool = bool_  # the Array API standard's name; inside this package the builtin is meant
globals().update(_PUBLIC)
if _typing.TYPE_CHECKING:

    def __getattr__(name): ...  # type checkers cannot see what the registry provides


from hybridml import data, losses, optim, testing  # noqa: E402  (written against the names above)
from hybridml.compare import compare  # noqa: E402

__version__ = "0.1.0"
