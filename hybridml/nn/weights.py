"""Values of a module's variables, from and to a mapping or a safetensors file."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hybridml.errors import WeightsError

SHOWN = 8  # names in one line of an error
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool",
    **{f"{k[0].upper()}{n}": f"{k}{n}" for k in ("int", "uint") for n in (8, 16, 32, 64)},
}  # fmt: skip


def load(module: Any, state: Mapping[str, Any], strict: bool) -> None:
    """Assign values by path, all of them or none."""
    variables = module.named_variables
    missing = [k for k in variables if k not in state]
    unexpected = [k for k in state if k not in variables]
    mismatched = [
        f"{k} ({tuple(np.shape(state[k]))}, the variable is {v.shape})"
        for k, v in variables.items()
        if k in state and tuple(np.shape(state[k])) != v.shape
    ]
    said = [("of another shape", mismatched)]
    if strict:
        said = [("missing", missing), ("not expected", unexpected), *said]
    lines = [f"  {what}: {_some(names)}" for what, names in said if names]
    if lines:
        unbuilt = [
            p or module.name for p, m in [("", module), *module.named_submodules.items()] if not m.built
        ]
        if unexpected and unbuilt:
            lines.append(
                f"  Not built yet, so without weights: {_some(unbuilt)}. Call the module once, or its build(shape), before loading"
            )
        raise WeightsError(f"the weights do not fit {module!r}:\n" + "\n".join(lines))
    for k, v in variables.items():
        if k in state:
            v.assign(
                np.asarray(state[k]).astype(v.dtype)
            )  # NumPy's goes to whatever device the variable is on


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _safetensors() -> Any:
    try:
        import safetensors.numpy as library
    except ImportError:
        raise ImportError(
            'reading and writing weights needs safetensors: pip install "hybridml[safetensors]"'
        ) from None
    return library


def write(path: Any, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a safetensors file under another name and move it into place, so that nobody ever sees half of it."""
    data = _safetensors().save({k: np.ascontiguousarray(a).reshape(a.shape) for k, a in arrays.items()})
    target = Path(path)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with open(part, "xb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read(path: Any) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file. Raises WeightsError for a file that is none."""
    library = _safetensors()
    data = Path(path).read_bytes()
    try:  # not its `load`, which knows no bfloat16
        found = library.deserialize(data)
        return {k: np.frombuffer(v["data"], DTYPES[v["dtype"]]).reshape(v["shape"]) for k, v in found}
    except Exception as e:  # the library has its own exception for each kind of damage
        raise WeightsError(f"{os.fspath(path)} cannot be read as a safetensors file: {e}") from None
