"""Work for worker processes, which import this and little else."""

import os
import signal
import time
from pathlib import Path


def survive(job: Path) -> int:
    """The length of its name, from processes that are killed for some of them.

    The process of `heavy` is killed each time, and that of `unlucky` once: it leaves a file.
    """
    if job.name == "heavy":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "unlucky" and not job.exists():
        job.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return len(job.name)


def slow(job: int) -> tuple[int, int]:
    """The job and its process, after half a second."""
    time.sleep(0.5)
    return job, os.getppid()


def refuse(job: int) -> int:
    raise ValueError(f"no {job}")
