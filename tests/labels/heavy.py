"""Work for worker processes, which import this and little else."""

import os
import signal
import time

from loci.app.label import Job, Outcome


def survive(job: Job, _options: object) -> Outcome:
    """Ends its own process for one film."""
    if job.film.name == "heavy.mp4":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return job.film, None, 1
