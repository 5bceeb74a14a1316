"""Jobs for tests of worker processes, quick to import."""

import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from lsst.twinkles.diffim.cli.logs import data_id_label
from lsst.twinkles.diffim.cli.runner import Outcome

_LOG = logging.getLogger("lsst.jobs")


@dataclass(frozen=True)
class Job:
    """What to do, and a file to leave a trace in."""

    label: str
    action: str = ""
    path: str = ""


class HeavyError(Exception):
    """An error that does not survive pickling."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


@contextlib.contextmanager
def make_work():
    """Give the function that does a job."""
    yield do


def make_broken_work():
    raise OSError(28, "No space left on device")


def die_at_once():
    os._exit(3)


def do(job):
    with data_id_label(job.label):
        return _do(job)


def _do(job):
    _LOG.debug("begin %s", job.label)
    if job.action == "log an error":
        try:
            raise ValueError("inside")
        except ValueError:
            _LOG.exception("oh %s", job.label)
    if job.action == "fail":
        return Outcome(job.label, "failed", "it failed", error=ZeroDivisionError("it failed"))
    if job.action == "fail heavily":
        return Outcome(job.label, "failed", "it failed", error=HeavyError("a", "b"))
    if job.action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.action == "exit":
        os._exit(7)
    if job.action == "sleep":
        try:
            if job.path:
                draft = Path(job.path).with_suffix(".draft")
                draft.write_text(str(os.getpid()))
                draft.rename(job.path)
            time.sleep(60)
        finally:
            if job.path:
                Path(job.path).with_suffix(".cleaned").write_text("")
    if job.action == "wait":
        while not Path(job.path).exists():
            time.sleep(0.02)
    if job.action == "talk much":
        for number in range(2000):
            _LOG.info("%d %s", number, "x" * 200)
    threads = [os.environ.get(name, "") for name in ("TWINKLES_DIFFIM_NUM_THREADS", "OMP_NUM_THREADS")]
    return Outcome(job.label, "done", f"{os.getpid()} {' '.join(threads)}")
