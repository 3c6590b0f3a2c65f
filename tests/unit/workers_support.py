"""Small folders, done by workers all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gitrel import workers
from gitrel.store import reading, writing


@contextmanager
def shared_out(really: bool = True) -> Iterator[None]:
    """Each file is a share of its own, and the caller does none of them."""
    with pytest.MonkeyPatch.context() as patch:
        if really:
            patch.setattr(workers, "_ALONE", 0)
            patch.setattr(workers, "WORKERS", 2)
            patch.setattr(reading, "SHARE", 1)
            patch.setattr(writing, "SHARE", 1)
        yield
