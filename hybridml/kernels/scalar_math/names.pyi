"""For type checkers only: the names that are in the namespace when a text of this package is executed."""

from collections.abc import Callable
from typing import Any

def device(function: Callable[..., Any]) -> Any: ...
def __getattr__(name: str) -> Any: ...
