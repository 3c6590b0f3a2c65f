"""The border to native code: whatever `cryptography` raises comes out as a `FormatError`.

It may raise `InvalidSignature`, `ValueError`, `UnsupportedAlgorithm`, OpenSSL's `InternalError`, and, when
its Rust part panics, pyo3's `PanicException`, which is no `Exception` and which no module exports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from gitrel.errors import FormatError

_Result = TypeVar("_Result")


def call_native(what: str, call: Callable[[], _Result]) -> _Result:
    """`call()`; raises `FormatError(what)` with the error's type, never its text: that may hold the input."""
    try:
        return call()
    except BaseException as error:
        name = type(error).__name__
        if not isinstance(error, Exception) and name != "PanicException":
            raise  # KeyboardInterrupt and SystemExit are not about the input
        raise FormatError(what, why=name) from None
