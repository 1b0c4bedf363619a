"""Random programs, drawn step by step from the registry's rows.

A program is run while it is drawn (eagerly, in float64), so that each step can look at the values it works on: an operand is
brought into the op's domain, which is that of the row's own samples, and nothing grows without bound. A value is *exact* if every
way to compute it gives the same bits; only such values reach comparisons and steps like `floor`, where one bit is another result.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

import hybridml as hml
from hybridml.ops.registry import OPS, Kind
from hybridml.testing import public_functions, samples_of

FUNCTIONS = public_functions()
DIMS = st.sampled_from([1, 1, 2, 3, 4, 5, 7])
LARGEST = 50.0


def _domains(op, count):
    """The ranges of the float arrays of a row's first sample, or None if that is another kind of call."""
    samples = samples_of(op)
    if op.kind is not Kind.ELEMENTWISE or not samples or samples[0].kwargs:
        return None
    args = samples[0].args
    if len(args) != count or not all(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in args):
        return None
    return [(float(a.min()), float(a.max())) for a in args]


def _can_broadcast(op):
    return any(np.shape(s.args[0]) != np.shape(s.args[1]) for s in samples_of(op))


def _rows(count, condition):
    found = {}
    for op in OPS.values():
        domains = _domains(op, count)
        if (
            domains is not None
            and (count == 1 or _can_broadcast(op))
            and condition(op, FUNCTIONS[op.name](*samples_of(op)[0].args))
        ):
            found[op.name] = domains
    return found


def _smooth(op, out):
    return op.vjps is not None and out.dtype == np.float64 and op.name not in JUMPS


JUMPS = ("remainder", "floor_divide")  # differentiable almost everywhere, and not continuous
KINKS = ("abs", "maximum", "minimum", "max", "min", "relu", "clip")
ROUNDED = (
    "add",
    "subtract",
    "multiply",
    "divide",
    "negative",
    "positive",
    "square",
    "abs",
    "sqrt",
    "copy",
    "maximum",
    "minimum",
)
UNARY = _rows(1, _smooth)
BINARY = _rows(2, _smooth)
STEPS = _rows(1, lambda op, out: op.vjps is None and out.dtype == np.float64)
COMPARISONS = _rows(2, lambda op, out: out.dtype == np.bool_ and not op.name.startswith("logical"))
REDUCTIONS = ("sum", "mean", "max", "min", "prod", "logsumexp", "var")
COMPOSITES = ("softmax", "log_softmax", "layer_norm", "gelu", "silu", "relu")
INTEGERS = (
    "add",
    "subtract",
    "multiply",
    "floor_divide",
    "remainder",
    "maximum",
    "minimum",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
)


@dataclass
class Step:
    """One operation: `run(values, variables)` gives the next value."""

    text: str
    run: object
    exact: bool


@dataclass
class Program:
    """What was drawn. Calling it with inputs of any float dtype runs it on tensors, eager or symbolic."""

    inputs: list
    steps: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    kinked: bool = False
    variables: list = field(default_factory=list)

    def __call__(self, *inputs):
        values = list(inputs)
        for s in self.steps:
            values.append(s.run(values, self.variables))
        return [values[i] for i in self.outputs]

    def __repr__(self):
        lines = [f"v{i} = input {a.dtype}{list(a.shape)}" for i, a in enumerate(self.inputs)]
        lines += [f"v{len(self.inputs) + i} = {s.text}" for i, s in enumerate(self.steps)]
        return "\n".join([*lines, f"return {', '.join(f'v{i}' for i in self.outputs)}"])


class Author:
    """Draws the steps of one program and runs them as it goes."""

    def __init__(self, draw, inputs, variables):
        self.draw = draw
        self.program = Program(inputs, variables=variables)
        self.values = [hml.asarray(a) for a in inputs]
        self.exact = [True] * len(inputs)

    def pick(self, condition=lambda v: True):
        """The number of a value; later ones are likelier, so that programs are deep as well as wide."""
        fitting = [i for i, v in enumerate(self.values) if condition(v)]
        return self.draw(st.sampled_from(fitting + fitting[-4:] * 2 + fitting[-1:] * 3)) if fitting else None

    def floats(self, i):
        return self.values[i].dtype.kind == "f"

    def add(self, text, run, exact=False):
        self.program.steps.append(Step(text, run, exact))
        self.values.append(run(self.values, self.program.variables))
        self.exact.append(exact)
        return len(self.values) - 1

    def small(self, i):
        """Keep numbers within bounds: what grows is divided."""
        v = self.values[i]
        top = float(np.abs(v.numpy()).max(initial=0)) if v.dtype.kind == "f" else 0.0
        if top > LARGEST:
            scale = 2.0 ** -math.ceil(math.log2(top))
            return self.add(f"v{i} * {scale}", lambda vs, _: vs[i] * scale, self.exact[i])
        return i

    def within(self, i, domain):
        """The value, or a smooth image of it inside the domain."""
        low, high = domain
        a = self.values[i].numpy()
        if a.size and (a.min() < low or a.max() > high):
            width = (high - low) * 0.9
            start = low + (high - low) * 0.05
            text = f"sigmoid(v{i}) * {width} + {start}"
            return self.add(text, lambda vs, _: hml.sigmoid(vs[i]) * width + start)
        return i

    # the steps

    def unary(self):
        name = self.draw(st.sampled_from(sorted(UNARY)))
        i = self.within(self.pick(_is_float), UNARY[name][0])
        exact = self.exact[i]
        self.program.kinked |= name in KINKS and not exact
        self.small(self.add(f"{name}(v{i})", lambda vs, _: FUNCTIONS[name](vs[i]), exact and name in ROUNDED))

    def binary(self):
        name = self.draw(st.sampled_from(sorted(BINARY)))
        i = self.pick(_is_float)
        j = self.pick(lambda v: _is_float(v) and _broadcasts(v, self.values[i]))
        if j is None:  # as large as it may be: not even with itself
            return self.unary()
        i, j = (self.within(k, d) for k, d in zip((i, j), BINARY[name], strict=True))
        exact = self.exact[i] and self.exact[j]
        self.program.kinked |= name in KINKS and not exact
        run = lambda vs, _: FUNCTIONS[name](vs[i], vs[j])  # noqa: E731
        return self.small(self.add(f"{name}(v{i}, v{j})", run, exact and name in ROUNDED))

    def with_scalar(self):
        name = self.draw(st.sampled_from(["add", "subtract", "multiply", "maximum"]))
        i, c = self.pick(_is_float), self.draw(st.sampled_from([0, 1, 2, -1, 0.5, -1.5]))
        swapped = self.draw(st.booleans())
        self.program.kinked |= name in KINKS and not self.exact[i]
        run = lambda vs, _: FUNCTIONS[name](c, vs[i]) if swapped else FUNCTIONS[name](vs[i], c)  # noqa: E731
        self.small(self.add(f"{name}({c}, v{i})" if swapped else f"{name}(v{i}, {c})", run, self.exact[i]))

    def select(self):
        exact = [i for i, v in enumerate(self.values) if self.exact[i] and _is_float(v)]
        i = self.draw(st.sampled_from(exact))
        fits = [k for k in exact if _broadcasts(self.values[i], self.values[k])]
        if not fits:
            return self.unary()
        j, name = self.draw(st.sampled_from(fits)), self.draw(st.sampled_from(sorted(COMPARISONS)))
        c = self.add(f"{name}(v{i}, v{j})", lambda vs, _: FUNCTIONS[name](vs[i], vs[j]), True)
        condition = self.values[c]
        a = self.pick(lambda v: _is_float(v) and _broadcasts(v, condition))
        b = self.pick(lambda v: _is_float(v) and _broadcasts(v, condition, self.values[a]))
        return self.add(
            f"where(v{c}, v{a}, v{b})",
            lambda vs, _: hml.where(vs[c], vs[a], vs[b]),
            self.exact[a] and self.exact[b],
        )

    def step(self):
        i = self.draw(
            st.sampled_from([i for i, v in enumerate(self.values) if self.exact[i] and _is_float(v)])
        )
        name = self.draw(st.sampled_from(sorted(STEPS)))
        self.add(f"{name}(v{i})", lambda vs, _: FUNCTIONS[name](vs[i]), True)

    def reduce(self):
        i, name = self.pick(_is_float), self.draw(st.sampled_from(REDUCTIONS))
        axes = self.draw(st.sets(st.integers(0, max(self.values[i].ndim - 1, 0)), max_size=2))
        axis = tuple(sorted(axes)) if axes and self.values[i].ndim else None
        keepdims = self.draw(st.booleans())
        f = getattr(hml, name, None) or FUNCTIONS[name]
        self.program.kinked |= name in KINKS and not self.exact[i]
        run = lambda vs, _: f(vs[i], axis=axis, keepdims=keepdims)  # noqa: E731
        text = f"{name}(v{i}, axis={axis}, keepdims={keepdims})"
        self.small(self.add(text, run, self.exact[i] and name in ("max", "min")))

    def composite(self):
        i, name = self.pick(lambda v: _is_float(v) and v.ndim), self.draw(st.sampled_from(COMPOSITES))
        if i is None:
            return self.unary()
        f = getattr(hml.nn, name, None) or getattr(hml, name)
        axis = self.draw(st.integers(-1, self.values[i].ndim - 1))
        self.program.kinked |= name == "relu" and not self.exact[i]
        attrs = {"axis": axis} if name in ("softmax", "log_softmax", "layer_norm") else {}
        return self.add(
            f"{name}(v{i}, {attrs})", lambda vs, _: f(vs[i], **attrs), name == "relu" and self.exact[i]
        )

    def view(self):
        i = self.pick()
        text, run = self._view(i, self.values[i].shape)
        self.add(text, run, self.exact[i])

    def _view(self, i, shape):
        kind = self.draw(st.sampled_from(["reshape", "transpose", "slice", "broadcast", "flip", "new axis"]))
        if kind == "transpose" and shape:
            axes = tuple(self.draw(st.permutations(range(len(shape)))))
            return f"transpose(v{i}, {axes})", lambda vs, _: hml.transpose(vs[i], axes)
        if kind == "slice" and shape:
            index = tuple([self.draw(_slices(d)) for d in shape])
            return f"v{i}[{index}]", lambda vs, _: vs[i][index]
        if kind == "flip" and shape:
            axis = self.draw(st.integers(0, len(shape) - 1))
            return f"flip(v{i}, axis={axis})", lambda vs, _: hml.flip(vs[i], axis=axis)
        if kind == "broadcast":
            wide = (self.draw(DIMS), *[self.draw(DIMS) if d == 1 else d for d in shape])[-3:]
            if len(wide) >= len(shape):
                return f"broadcast_to(v{i}, {wide})", lambda vs, _: hml.broadcast_to(vs[i], wide)
        if kind == "new axis" and len(shape) < 4:
            axis = self.draw(st.integers(0, len(shape)))
            return f"expand_dims(v{i}, axis={axis})", lambda vs, _: hml.expand_dims(vs[i], axis=axis)
        size = math.prod(shape)
        first = self.draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0]))
        new = self.draw(st.sampled_from([(size,), (first, size // first), (first, 1, size // first), shape]))
        return f"reshape(v{i}, {new})", lambda vs, _: hml.reshape(vs[i], new)

    def matmul(self):
        i = self.pick(lambda v: _is_float(v) and v.ndim >= 2)
        if i is None:
            return self.binary()
        k = self.values[i].shape[-1]
        j = self.pick(lambda v: _is_float(v) and v.ndim == 2 and k in v.shape)
        if j is None:
            run, text = (lambda vs, _: vs[i] @ hml.matrix_transpose(vs[i])), f"v{i} @ v{i}.T"
        elif self.values[j].shape[0] == k:
            run, text = (lambda vs, _: vs[i] @ vs[j]), f"v{i} @ v{j}"
        else:
            run, text = (lambda vs, _: vs[i] @ vs[j].T), f"v{i} @ v{j}.T"
        return self.small(self.add(text, run))

    def move(self):
        """Ops that move data: some have no kernel and split the program."""
        i = self.pick(lambda v: _is_float(v) and v.ndim)
        if i is None:
            return self.view()
        n, exact = self.values[i].shape[-1], self.exact[i]
        kind = self.draw(st.sampled_from(["cumsum", "take", "pad", "concat", "stack"]))
        if kind == "cumsum":
            return self.small(self.add(f"cumsum(v{i}, axis=-1)", lambda vs, _: hml.cumsum(vs[i], axis=-1)))
        if kind == "take":
            at = np.array(self.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5)))
            return self.add(f"take(v{i}, {at}, axis=-1)", lambda vs, _: hml.take(vs[i], at, axis=-1), exact)
        if kind == "pad":
            width = [(0, 0)] * (self.values[i].ndim - 1) + [(1, 2)]
            return self.add(f"pad(v{i}, {width})", lambda vs, _: hml.pad(vs[i], width, value=0.5), exact)
        f = getattr(hml, kind)
        return self.add(f"{kind}([v{i}, v{i}], axis=-1)", lambda vs, _: f([vs[i], vs[i]], axis=-1), exact)

    def variable(self):
        """Read a variable, or assign to it what has its shape."""
        k = self.draw(st.integers(0, len(self.program.variables) - 1))
        name, shape = f"w{k}", self.program.variables[k].shape
        if self.draw(st.booleans()):
            return self.add(name, lambda vs, ws: ws[k].value())
        i = self.pick(lambda v: _is_float(v) and v.shape in (shape, ()))
        if i is None:
            run = lambda vs, ws: ws[k].assign(ws[k] * 0.5 + 0.25).value()  # noqa: E731
            return self.add(f"{name}.assign({name} * 0.5 + 0.25)", run)
        run = lambda vs, ws: ws[k].assign(ws[k] * 0.5 + vs[i]).value()  # noqa: E731
        return self.small(self.add(f"{name}.assign({name} * 0.5 + v{i})", run))

    def integers(self):
        i = self.pick(lambda v: v.dtype.kind == "i")
        if i is None:
            return self.unary()
        name = self.draw(st.sampled_from(INTEGERS))
        j = self.pick(lambda v: v.dtype == self.values[i].dtype and _broadcasts(v, self.values[i]))
        if j is None:
            return self.unary()
        return self.add(f"{name}(v{i}, v{j})", lambda vs, _: FUNCTIONS[name](vs[i], vs[j]), True)


def _is_float(v):
    return v.dtype.kind == "f"


def _broadcasts(*tensors):
    try:
        shape = np.broadcast_shapes(*[t.shape for t in tensors])
    except ValueError:
        return False
    return math.prod(shape) <= 2000 and len(shape) <= 4


def _slices(d):
    whole = st.just(slice(None))
    part = st.builds(
        lambda a, b, s: slice(min(a, b), max(a, b) + 1, s),
        *[st.integers(0, d - 1)] * 2,
        st.sampled_from([1, 2]),
    )
    return st.one_of(whole, part, st.just(slice(None, None, -1)), st.integers(0, d - 1))


@st.composite
def programs(draw, integers=False):
    """A program of 3 to 14 steps over one to three inputs and two variables."""
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    base = tuple(draw(st.lists(DIMS, min_size=1, max_size=3)))
    ones = st.lists(st.booleans(), min_size=len(base), max_size=len(base))
    cut = st.builds(
        lambda lead, ones: tuple([1 if one else d for d, one in zip(base, ones, strict=True)])[lead:],
        st.sampled_from([0, 0, 1, 2, 3]),
        ones,
    )
    shapes = [base, *draw(st.lists(cut, max_size=2))]
    # Few bits in the mantissa: the same numbers in float32, and products of two of them are exact in both.
    inputs = [np.round(rng.uniform(-2, 2, s) * 256) / 256 for s in shapes]
    if integers:
        inputs += [
            rng.integers(-100, 100, shapes[0]).astype(np.int32),
            rng.integers(1, 9, shapes[0]).astype(np.int32),
        ]
    variables = [
        hml.Variable(rng.uniform(-1, 1, s), dtype=hml.float64, name=f"w{k}")
        for k, s in enumerate([shapes[0], (3, 5)])
    ]
    author = Author(draw, inputs, variables)
    start = [v.numpy() for v in variables]
    kinds = ["unary"] * 2 + ["binary"] * 3 + ["reduce"] * 3 + ["view"] * 3
    kinds += ["with_scalar", "select", "step", "composite", "matmul", "move", "variable"]
    kinds += ["integers"] * 8 if integers else []
    for kind in draw(st.lists(st.sampled_from(kinds), min_size=3, max_size=14)):
        getattr(author, kind)()
    program, n = author.program, len(inputs)
    last = len(author.values) - 1
    some = draw(st.lists(st.integers(n, last), max_size=4)) if last >= n else []
    program.outputs = [*some, last]
    for v, a in zip(variables, start, strict=True):
        v.assign(a)
    return program
