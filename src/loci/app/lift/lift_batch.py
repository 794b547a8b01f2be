"""`loci lift --batch`: many pictures, by models that are loaded once for each worker."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from typing import TYPE_CHECKING, Any, NamedTuple

from loci.app.lift.lift_jobs import LiftJob, find_jobs
from loci.errors import LociError

if TYPE_CHECKING:
    from loci.app.lift.lift_request import LiftOptions
    from loci.objects.lifter import Lifter

ATTEMPTS = 2
"""How often a picture is tried whose worker ended, which may have been another's fault."""


class _Done(NamedTuple):
    """What became of a picture: what was printed, and why it failed, if it did."""

    job: LiftJob
    printed: str
    failure: str | None


def lift_batch(options: LiftOptions) -> None:
    """Lifts what is in a folder or a list, and says of each picture what became of it.

    One that cannot be lifted is named, and the others go on. What is there already, as after an
    interruption, is left as it is.

    Raises:
        LociError: for a folder without pictures that have masks, options that belong to one
            picture, or, at the end, when pictures have failed.
    """
    assert options.batch is not None
    given = (options.picture, options.mask, options.label, options.box, options.point)
    if any(given) or options.pointmap is not None:
        raise LociError(
            "--batch cannot be combined with a picture, masks, boxes, points or a pointmap"
        )
    if not 1 <= options.workers <= 256:
        raise LociError(f"--workers: {options.workers}, expected 1 to 256")
    found = find_jobs(options.batch)
    todo = [job for job in found if not _is_whole(options, job)]
    if len(todo) < len(found):
        print(f"{options.out}: {len(found) - len(todo)} of {len(found)} exist, left as they are")
    workers = min(options.workers, len(todo))
    lifted = _by_workers(options, todo, workers) if workers > 1 else _one_by_one(options, todo)
    failed = []
    for number, (job, printed, failure) in enumerate(lifted, start=1):
        print(f"{printed}[{number}/{len(todo)}] {options.out / job.name}", flush=True)
        if failure is not None:
            failed.append(job.name)
            print(f"{job.options['picture']}: failed: {failure}", flush=True)
    if failed:
        raise LociError(f"--batch: {len(failed)} of {len(found)} failed: {', '.join(failed)}")


def _is_whole(options: LiftOptions, job: LiftJob) -> bool:
    """Whether its last file is there: an interruption may have come before."""
    from loci.app.lift.lift import TURNTABLE

    out = options.out / job.name
    return (out / TURNTABLE).is_file() or (
        any(out.glob("object-*")) and all((o / TURNTABLE).is_file() for o in out.glob("object-*"))
    )


def _one_by_one(options: LiftOptions, jobs: list[LiftJob]) -> Iterator[_Done]:
    worker = _Worker(options)
    for job in jobs:
        print(f"{job.options['picture']}:", flush=True)
        yield worker.lift(job)


class _Worker:
    """Lifts pictures, one after the other, with a model that it loads for the first."""

    def __init__(self, options: LiftOptions) -> None:
        self.options = options
        self.lifter: Lifter | None = None

    def lift(self, job: LiftJob) -> _Done:
        from loci.app.lift import lift
        from loci.app.lift.lift_request import check_request

        out = self.options.out / job.name
        try:
            one = replace(self.options, batch=None, workers=1, out=out, **job.options)
            request = check_request(one)
            self.lifter = self.lifter or lift.load_lifter(request, keep=True)
            lift.lift_one(request, self.lifter)
        except LociError as error:
            return _Done(job, "", str(error))
        except BrokenPipeError:  # nobody reads what is printed
            raise
        except Exception as error:  # an unexpected one does not end the others
            reason = " ".join(str(error).split())[:200]
            return _Done(job, "", f"{type(error).__name__}: {reason}")
        return _Done(job, "", None)


_worker: _Worker | None = None


def _begin(options: LiftOptions, threads: int, counter: Synchronized[int]) -> None:
    """Prepares a process: its share of the threads and, of several GPUs, its own."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    import torch

    with counter.get_lock():
        number = counter.value
        counter.value += 1
    if options.device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        options = replace(options, device=f"cuda:{number % torch.cuda.device_count()}")
    global _worker  # one for the process
    _worker = _Worker(options)


def _lift(job: LiftJob) -> _Done:
    """In a process of its own: what is printed comes back whole, and no progress bars."""
    assert _worker is not None
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        done = _worker.lift(job)
    return done._replace(printed=f"{job.options['picture']}:\n{printed.getvalue()}")


def _by_workers(options: LiftOptions, jobs: list[LiftJob], workers: int) -> Iterator[_Done]:
    """As they come. Where a process ends, others take up what was being lifted."""
    context = get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // workers)
    counter: Any = context.Value("i", 0)
    todo, attempts = list(jobs), dict.fromkeys((job.name for job in jobs), 0)
    while todo:
        running: dict[Future[_Done], LiftJob] = {}
        with ProcessPoolExecutor(workers, context, _begin, (options, threads, counter)) as pool:
            try:
                while todo or running:
                    while todo and len(running) < workers:
                        running[pool.submit(_lift, todo[0])] = todo[0]
                        todo.pop(0)
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield future.result()
                        del running[future]
            except BrokenProcessPool:
                for job in running.values():
                    attempts[job.name] += 1
                    if attempts[job.name] < ATTEMPTS:
                        todo.append(job)
                    else:
                        yield _Done(job, "", "its process ended; is there enough memory?")
