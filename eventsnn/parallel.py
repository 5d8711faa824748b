"""A function mapped over tasks by several workers, here or on a Dask cluster; knows nothing of networks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice, starmap
from typing import Any, TypeVar

Result = TypeVar("Result")
AHEAD = 4  # chunks a worker of a cluster is given at once
PATIENCE = 10  # seconds in which a scheduler and its workers must answer


def check_jobs(jobs: int | str, scheduler: str | None = None) -> int:
    """The number of workers that `jobs` asks for: of threads, N, or of processes, "dask:N"; 0 of a scheduler.

    Raises ValueError for anything else, and for a number of workers together with a scheduler, which has its own.
    """
    kind, _, number = str(jobs).rpartition(":")
    if kind not in ("", "dask") or isinstance(jobs, bool) or not number.isascii() or not number.isdigit():
        raise ValueError(f"jobs is {jobs!r}, wanted a number of worker threads, or dask:N for N processes")
    if int(number) < 1:
        raise ValueError(f"jobs is {jobs}, wanted 1 or more worker {'processes' if kind else 'threads'}")
    if scheduler is not None and str(jobs) != "1":
        raise ValueError(f"jobs is {jobs}, but the scheduler {scheduler} has workers of its own; give one of them")
    if kind or scheduler is not None:
        _distributed()
    return int(number) if scheduler is None else 0


def chunks(count: int, jobs: int, most: int = 16) -> list[range]:
    """Cut 0..count into ranges of at most `most`, small enough that every job gets its share."""
    size = max(1, min(most, -(-count // (4 * max(jobs, 1)))))
    return [range(i, min(i + size, count)) for i in range(0, count, size)]


def map_tasks(
    work: Callable[..., Result], tasks: Iterable[tuple], jobs: int | str = 1, scheduler: str | None = None
) -> Iterator[Result]:
    """Yield `work(*task)` for every task, in order; no more than a few are under way, or done and not yet taken.

    jobs: threads (the kernels release the lock), or "dask:N", processes. scheduler: address of a Dask cluster.
    """
    workers = check_jobs(jobs, scheduler)
    if scheduler is not None or str(jobs).startswith("dask"):
        yield from _on_dask(work, tasks, workers, scheduler)
    elif workers == 1:
        yield from starmap(work, tasks)
    else:
        pool, waiting = ThreadPoolExecutor(workers), deque[Any]()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, *task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


# ------------------------------------------------------------------------------------------------------------ dask


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise ValueError(
            "clusters need the package distributed; install it with: pip install 'eventsnn[dask]'"
        ) from None
    return distributed


def _on_dask(
    work: Callable[..., Result], tasks: Iterable[tuple], workers: int, scheduler: str | None
) -> Iterator[Result]:
    """Batches of tasks through joblib. Dask runs again what a lost worker had; ConnectionError if it cannot."""
    from joblib import Parallel, delayed, parallel_config

    tasks = iter(tasks)
    with _client(workers, scheduler) as client, parallel_config(backend="dask", client=client, scatter=[work]):
        while batch := list(islice(tasks, AHEAD * max(1, sum(client.ncores().values())))):
            try:
                # In a tuple the arguments travel with their task; alone, joblib would leave them with one worker.
                yield from Parallel()(delayed(_call)(work, task) for task in batch)
            except (ValueError, RuntimeError, MemoryError):
                raise  # of the work itself
            except Exception as error:
                raise ConnectionError(f"the cluster gave up: {error or type(error).__name__}") from None


def _call(work: Callable[..., Result], task: tuple) -> Result:
    return work(*task)


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of the scheduler, or of a cluster of one-threaded processes on this machine that ends with the body."""
    import logging

    dask, logger = _distributed(), logging.getLogger("distributed")
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)  # a lost worker is no news: its tasks run again
        if scheduler is None:
            quiet: dict[str, Any] = {"silence_logs": logging.CRITICAL, "dashboard_address": None, "memory_limit": 0}
            with _deaf():
                local = dask.LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, **quiet)
            stack.enter_context(local)
            yield stack.enter_context(dask.Client(local, set_as_default=False))
            return
        try:
            asyncio.run(asyncio.wait_for(_identity(scheduler), PATIENCE))  # a client that fails is noisy later
        except Exception as error:
            reason = f"it did not answer in {PATIENCE} s" if isinstance(error, TimeoutError) else str(error)
            raise ValueError(
                f"the scheduler {scheduler} cannot be reached: {reason}; start it, or correct --scheduler"
            ) from None
        client = stack.enter_context(dask.Client(scheduler, timeout=PATIENCE, set_as_default=False))
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise ValueError(
                f"the scheduler {scheduler} has no workers; start some with: dask worker {scheduler}"
            ) from None
        yield client


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes begun in the body leave Ctrl-C to this one, which closes them."""
    import signal
    import threading

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _identity(scheduler: str) -> Any:
    from distributed.core import rpc

    async with rpc(scheduler) as asked:
        return await asked.identity()
