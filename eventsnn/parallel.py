"""A function mapped over chunks of samples by several workers; knows nothing of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

Result = TypeVar("Result")


def chunks(count: int, jobs: int, most: int = 16) -> list[range]:
    """Cut 0..count into ranges of at most `most`, small enough that every job gets its share."""
    size = max(1, min(most, -(-count // (4 * jobs))))
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


def map_chunks(work: Callable[[range], Result], count: int, jobs: int) -> Iterator[Result]:
    """Yield `work(chunk)` for every chunk in order, `jobs` at a time in threads (the kernels release the lock)."""
    parts = chunks(count, jobs)
    if jobs == 1:
        yield from map(work, parts)
        return
    from joblib import Parallel, delayed

    yield from Parallel(n_jobs=jobs, backend="threading", return_as="generator")(delayed(work)(p) for p in parts)
