"""Work on many files in threads, and the results in order.

Hashing, deflating and system calls run outside Python's lock, the rest of what there is to do about a file within it.
No thread is left when it ends: who calls this may fork afterwards.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

THREADS = min(4, len(os.sched_getaffinity(0)))
HEAVY = 16 * 1024  # bytes; hashing and deflating so much takes longer than all that Python does about a file

T = TypeVar("T")
R = TypeVar("R")


class Share(NamedTuple, Generic[T]):
    """A piece of work in two parts: `heavy` runs outside Python's lock for the most part, `light` inside.

    `steps` has both in their order, and more that the consumer may want. `cost`: the bytes of memory that it may
    take until it is taken.
    """

    steps: list[T]
    heavy: list[T]
    light: list[T]
    cost: int


def in_order(
    shares: Iterable[Share[T]], work: Callable[[list[T]], R], *, ahead: int
) -> Generator[tuple[Share[T], R, R], None, None]:
    """Each share with what `work` makes of its two parts, in order, `ahead` of the consumer by so much cost.

    What is light is done by the caller's own thread: two threads would spend more time on handing Python's lock to
    each other. The other processors get what is heavy, and the caller helps when they are behind.

    Close it (`contextlib.closing`) if it may not be exhausted; closing waits for the threads.
    """
    pending: deque[tuple[Share[T], Future[R], R]] = deque()
    held = 0
    with ThreadPoolExecutor(max(1, THREADS - 1)) as pool:
        try:
            for share in shares:
                future = _begin(pool, work, share.heavy, pending)
                pending.append((share, future, work(share.light)))
                held += share.cost
                while pending and (held >= ahead or pending[0][1].done()):
                    done, future, light = pending.popleft()
                    yield done, future.result(), light
                    held -= done.cost
            while pending:
                done, future, light = pending.popleft()
                yield done, future.result(), light
        finally:
            for _, future, _ in pending:
                future.cancel()


def _begin(
    pool: ThreadPoolExecutor,
    work: Callable[[list[T]], R],
    heavy: list[T],
    pending: Iterable[tuple[Share[T], Future[R], R]],
) -> Future[R]:
    """In the pool, or here and now if it is nothing, or if that has enough to do."""
    if heavy and sum(not future.done() for _, future, _ in pending) < 4 * THREADS:
        return pool.submit(work, heavy)
    done: Future[R] = Future()
    done.set_result(work(heavy))
    return done
