"""Module: an object with variables and a `call`, of which models are made.

A module knows its parts by looking at its own attributes when it is asked: variables, modules, and lists, tuples and dicts of them.
Nothing is recorded on assignment, so a list may grow and an attribute may be replaced at any time.
"""

from __future__ import annotations

import functools
import inspect
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import hybridml as hml
from hybridml.errors import HybridMLError
from hybridml.nn import parts, summary, weights


@dataclass
class _Record:
    """What a module knows of itself. It is no part of the module's form: two modules of other names are still alike."""

    name: str
    trainable: bool = True
    built: bool = False
    frozen: list[Any] = field(default_factory=list)  # variables that `trainable = False` switched off
    output_shape: Any = None
    walk: Any = None  # the last one over the module

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"walk": None}  # a copy is another module


class _Calls(threading.local):
    """The `training` of the calls that are under way in this thread."""

    training: Any = None


_calls = _Calls()
_building = threading.RLock()  # two threads may meet one module that is not built


class Module:
    """The base of layers and models: assign variables and modules to attributes in `__init__` or `build`, compute in `call`.

    call(*args)         what the module does; runs traced or eagerly, with control flow on tensors converted in a trace
    build(*shapes)      makes the weights. Called once, before the first `call`, with the shapes of its first positional arguments,
                        as many as it takes (a nest of shapes for a nest of tensors). The weights belong to this object, also where
                        the first call is traced.
    training            an argument of `call`, if it has one: what the caller passes, else what the module around it was called with,
                        else its own default

    A module is an argument of a traced function by its form and its variables' shapes and dtypes: modules that are alike share a
    trace. A method may be decorated with `hml.function`; each object then has a function of its own.

    >>> import hybridml as hml
    >>> class Net(hml.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hidden, self.out = hml.nn.Dense(8, activation="relu"), hml.nn.Dense(2)
    ...     def call(self, x):
    ...         return self.out(self.hidden(x))
    >>> net = Net()
    >>> net(hml.ones((3, 4))).shape, list(net.named_variables)
    ((3, 2), ['hidden.kernel', 'hidden.bias', 'out.kernel', 'out.bias'])
    """

    _module: _Record

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        self = super().__new__(cls)
        self._module = _Record(_snake_case(cls.__name__))
        return self

    def __init__(self, *, name: str | None = None, trainable: bool = True) -> None:
        if name is not None:
            self._module.name = str(name)
        self._module.trainable = bool(trainable)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "build" in cls.__dict__:
            setattr(cls, "build", _building_once(cls.__dict__["build"]))  # noqa: B010  (mypy: a method)

    # to be written by subclasses

    def call(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define call(self, ...)")

    def build(self, *shapes: Any) -> None:
        """Make the weights, with `add_weight` or as `hml.Variable`. Nothing to make unless overridden."""

    def add_weight(
        self,
        shape: Sequence[int],
        initializer: Any = "glorot_uniform",
        name: str = "weight",
        *,
        trainable: bool = True,
        dtype: Any = None,
    ) -> hml.Variable:
        """A variable named after this module; assign it to an attribute.

        initializer: a name or a function of hml.initializers, or any f(shape, dtype).
        """
        make = hml.initializers.get(initializer)
        dtype = hml.float32 if dtype is None else dtype
        return hml.Variable(
            make(tuple(shape), dtype),
            name=f"{self.name}/{name}",
            trainable=trainable and self.trainable,
        )

    # calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        record = self._module
        call = self.call
        cls: Any = type(self)
        takes, place = _training_of(cls.call)
        outer = _calls.training
        if "training" in kwargs:
            training = kwargs["training"] if takes else kwargs.pop("training")
        elif takes and place is not None and len(args) > place:
            training = args[place]
        else:
            training = outer
            if takes and outer is not None:
                kwargs["training"] = outer
        _calls.training = training
        try:
            if not record.built:
                self._build(args)
            out = hml.traced_form(call)(*args, **kwargs)
        except HybridMLError as e:
            e.add_note(f"  in {self.name} ({type(self).__name__}) called on {_specs(args)}")
            raise
        finally:
            _calls.training = outer
        shape = getattr(out, "shape", None)
        record.output_shape = shape and tuple([d if isinstance(d, int) else None for d in shape])
        return out

    def _build(self, args: Sequence[Any]) -> None:
        with _building:
            if self._module.built:
                return
            cls: Any = type(self)
            shapes = [_shapes(x) for x in args[: _build_arity(cls)]]
            self.build(*shapes)
            self._module.built = True

    # facts

    @property
    def name(self) -> str:
        return self._module.name

    @name.setter
    def name(self, value: str) -> None:
        self._module.name = str(value)

    @property
    def built(self) -> bool:
        """True once the weights are made."""
        return self._module.built

    @built.setter
    def built(self, value: bool) -> None:
        self._module.built = bool(value)

    @property
    def named_variables(self) -> dict[str, hml.Variable]:
        """Every variable by its path: `{"layers.0.kernel": ...}`. One that is met twice has its first path."""
        seen: set[int] = set()
        found: dict[str, hml.Variable] = {}
        for path, x in parts.walk(self).found:
            if isinstance(x, hml.Variable) and id(x) not in seen:
                seen.add(id(x))
                found[path] = x
        return found

    @property
    def named_submodules(self) -> dict[str, Module]:
        """Every module below this one by its path."""
        return {path: x for path, x in parts.walk(self).found if isinstance(x, Module)}

    @property
    def variables(self) -> list[hml.Variable]:
        return list(self.named_variables.values())

    weights = variables

    @property
    def trainable_variables(self) -> list[hml.Variable]:
        return [v for v in self.variables if v.trainable]

    trainable_weights = trainable_variables

    @property
    def non_trainable_variables(self) -> list[hml.Variable]:
        return [v for v in self.variables if not v.trainable]

    non_trainable_weights = non_trainable_variables

    @property
    def submodules(self) -> list[Module]:
        return list(self.named_submodules.values())

    @property
    def trainable(self) -> bool:
        """False: no gradient tape watches the variables of this module and those below, and optimisers leave them alone.

        Switching it on again brings back what was trainable before.
        """
        return self._module.trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        modules = [self, *self.submodules]
        for m in modules:
            m._module.trainable = bool(value)
        if value:
            for m in modules:
                for v in m._module.frozen:
                    v.trainable = True
                m._module.frozen.clear()
            return
        frozen = self.trainable_variables
        for v in frozen:
            v.trainable = False
        self._module.frozen += frozen

    def count_params(self) -> int:
        """How many numbers the variables hold."""
        return sum(int(np.prod(v.shape)) for v in self.variables)

    def summary(self, *, print_fn: Callable[[str], Any] | None = None) -> None:
        """Print a table of the modules below this one, with shapes and numbers of parameters."""
        summary.show(self, print_fn)

    def to(self, device: str) -> Module:
        """Move every variable to a device ("cpu:0", "gpu:0"); returns the module. Raises DeviceError for one that is not there."""
        for v in self.variables:
            v.to(device)
        return self

    # values

    def state_dict(self) -> dict[str, np.ndarray]:
        """A copy of every variable's value by its path.

        >>> import hybridml as hml
        >>> dense = hml.nn.Dense(2)
        >>> dense.build((None, 3))
        >>> {k: a.shape for k, a in dense.state_dict().items()}
        {'kernel': (3, 2), 'bias': (2,)}
        """
        return {path: v.numpy() for path, v in self.named_variables.items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Assign values by path. Nothing is assigned unless everything fits.

        Raises WeightsError, which names the paths that are missing, not expected or of another shape; with `strict=False` only for
        another shape.
        """
        weights.load(self, state, strict)

    def get_weights(self) -> list[np.ndarray]:
        """A copy of every variable's value, in the order of `variables`."""
        return [v.numpy() for v in self.variables]

    def set_weights(self, values: Iterable[Any]) -> None:
        """Assign values in the order of `variables`. Raises WeightsError unless all fit."""
        values = list(values)
        names = list(self.named_variables)
        if len(values) != len(names):
            raise hml.errors.WeightsError(
                f"{self.name} has {len(names)} variables {names}, got {len(values)} values"
            )
        weights.load(self, dict(zip(names, values, strict=True)), True)

    def save_weights(self, path: Any) -> None:
        """Write every variable to a safetensors file, whole or not at all. Needs `pip install "hybridml[safetensors]"`."""
        weights.write(path, self.state_dict())

    def load_weights(self, path: Any, strict: bool = True) -> None:
        """Assign what `save_weights` wrote. Raises as `load_state_dict` does, and FileNotFoundError."""
        weights.load(self, weights.read(path), strict)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {len(self.variables)} variables, {self.count_params()} parameters>"


parts.register(Module)


def _building_once(build: Callable[..., None]) -> Callable[..., None]:
    """`build` outside of any trace and tape, so that the variables are the module's own; afterwards the module is built."""

    @functools.wraps(build)
    def once(self: Module, *shapes: Any) -> None:
        with _building, hml.init_scope():
            build(self, *shapes)
        self._module.built = True

    return once


@functools.lru_cache(maxsize=1024)
def _training_of(call: Callable[..., Any]) -> tuple[bool, int | None]:
    """Whether `call` takes `training`, and its place among positional arguments."""
    parameters = list(inspect.signature(call).parameters.values())[1:]
    for i, p in enumerate(parameters):
        if p.name == "training":
            return True, None if p.kind is p.KEYWORD_ONLY else i
    return False, None


@functools.lru_cache(maxsize=1024)
def _build_arity(cls: Any) -> int:
    kinds = inspect.Parameter
    given = list(inspect.signature(cls.build).parameters.values())[1:]
    if any(p.kind is kinds.VAR_POSITIONAL for p in given):
        return 64
    return sum(p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD) for p in given)


def _shapes(x: Any) -> Any:
    """The shapes of a nest of tensors; anything without one is None."""
    if isinstance(x, (list, tuple)) and not hasattr(x, "shape"):
        if x and all(isinstance(y, (int, float)) for y in x):
            return (len(x),)
        return [_shapes(y) for y in x]
    if isinstance(x, dict):
        return {k: _shapes(y) for k, y in x.items()}
    shape = getattr(x, "shape", None)
    return None if shape is None else tuple(shape)


def _specs(args: Sequence[Any]) -> str:
    found = [str(x.spec) if hasattr(x, "spec") else type(x).__name__ for x in args]
    return ", ".join(found) or "nothing"


def _snake_case(name: str) -> str:
    """
    >>> _snake_case("GlobalAvgPool2D"), _snake_case("LSTM"), _snake_case("RMSNorm")
    ('global_avg_pool2d', 'lstm', 'rms_norm')
    """
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
