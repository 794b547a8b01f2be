"""Independent pieces of work, such as one a film, spread over processes or over a Ray cluster.

A process that is killed, as by the system where memory is short, costs no other piece: its own is
given another process, and only a piece whose processes keep ending is given up.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from loci.errors import LociError, install_hint

Job = TypeVar("Job")
Result = TypeVar("Result")
ENDED = "its process was ended from outside (memory?), expected it to run through"
KNOCK_SECONDS = 10
RAY_TRIES = 4
"""Processes that a piece of work is given on a cluster before it is given up."""


def finished(
    jobs: Sequence[Job], work: Callable[[Job], Result], workers: int
) -> Iterator[tuple[Job, Result | None]]:
    """Each job with its result as it is done, several at a time; None where its process ended.

    When a process ends, the jobs that are not done are done one by one, each in a process of its
    own.

    Args:
        jobs: what `work` takes; it is sent to other processes.
        work: a function that other processes can import, or a `partial` of one. What it raises is
            raised here.
        workers: processes.
    """
    lost: list[Job] = []
    with _pool(workers) as pool:
        running = {pool.submit(work, job): job for job in jobs}
        for done in as_completed(running):
            try:
                yield running[done], done.result()
            except BrokenProcessPool:
                lost.append(running[done])
    for job in lost:
        with _pool(1) as pool:
            try:
                yield job, pool.submit(work, job).result()
            except BrokenProcessPool:
                yield job, None


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes: a fork of one that has threads can hang."""
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def finished_on_ray(
    jobs: Sequence[Job], work: Callable[[Job], Result], address: str
) -> Iterator[tuple[Job, Result | None]]:
    """The same on a Ray cluster, a core for each job, as many at a time as it has.

    Jobs of a process or a machine that ends are done again elsewhere. When the caller stops early,
    what is running is cancelled.

    Args:
        jobs, work: as for `finished`. Every machine needs this package, and finds the files that
            jobs name under the same paths.
        address: `HOST:6379` of `ray start --head`, `auto` for a cluster that this machine is part
            of, or `local` for one that ends with the command.

    Raises:
        LociError: when Ray is not installed, or nothing answers there.
    """
    ray = connect(address)
    gone = ray.exceptions
    ended = gone.WorkerCrashedError, gone.OutOfMemoryError, gone.NodeDiedError

    @ray.remote(num_cpus=1, max_retries=RAY_TRIES - 1)
    def task(job: Job) -> Result:
        return work(job)

    running = {}
    try:
        running = {task.remote(job): job for job in jobs}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            job = running.pop(done)
            try:
                yield job, ray.get(done)
            except ended:
                yield job, None
    finally:
        for left in running:
            ray.cancel(left)
        ray.shutdown()


def connect(address: str) -> Any:
    """The module `ray`, connected.

    Raises:
        LociError: when it is not installed, or nothing answers at the address.
    """
    try:
        import ray  # type: ignore
    except ImportError as error:
        raise LociError(f"--ray needs Ray: {install_hint('ray')}") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address not in ("auto", "local"):
            _knock(address)
        ray.init(address, log_to_driver=False, logging_level="error")
    except (OSError, ValueError, RuntimeError) as error:
        first = " ".join(str(error).split())[:200]
        raise LociError(
            f"--ray {address}: no cluster of this version of Ray answers ({first}), expected "
            "HOST:PORT, auto or local"
        ) from error
    return ray


def _knock(address: str) -> None:
    """Whether anything listens there, which Ray itself takes minutes to find out."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("not an address")
    with socket.create_connection((host, int(port)), KNOCK_SECONDS):
        pass
