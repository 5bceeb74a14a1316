"""Do one job after the other, in this process or in several that stay."""

from __future__ import annotations

__all__ = ("Outcome", "RunnerError", "run_jobs")

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from .logs import LogLevels

type Kind = Literal["done", "skipped", "no work", "failed"]
type Work = Callable[[Any], Outcome]
type WorkMaker = Callable[[], AbstractContextManager[Work]]


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    label: str
    """Data id as text (`str`)."""

    kind: Kind
    """``done``, ``skipped`` (done by an earlier run), ``no work`` or ``failed`` (`str`)."""

    message: str = ""
    """A few words on it (`str`)."""

    seconds: float = 0.0
    """Time it took (`float`)."""

    error: BaseException | None = None
    """Why it failed (`BaseException` or `None`)."""


class RunnerError(RuntimeError):
    """Worker processes cannot be used."""


def run_jobs(
    make_work: WorkMaker,
    jobs: Sequence[Any],
    *,
    processes: int = 1,
    timeout: float | None = None,
    log_levels: LogLevels = (),
) -> Generator[Outcome]:
    """Do jobs, in the order in which they come to an end.

    Parameters
    ----------
    make_work : callable
        Returns a context manager that gives the function which does a job;
        called once a process. With more than one process it and the jobs have
        to be picklable.
    jobs : sequence
        Jobs, each with an attribute ``label``.
    processes : `int`, optional
        Number of worker processes; with 1 and no timeout the jobs are done in
        this process.
    timeout : `float`, optional
        Longest time for a job, seconds. A worker that takes longer is ended.
    log_levels : sequence of `tuple`, optional
        Levels for the workers, see `.logs.set_levels`.

    Yields
    ------
    outcome : `Outcome`
        What became of a job.

    Raises
    ------
    RunnerError
        If workers cannot start.
    """
    if processes == 1 and timeout is None:
        with make_work() as work:
            for job in jobs:
                yield work(job)
        return
    from .workers import WorkerPool

    queue = deque(jobs)
    with WorkerPool(make_work, min(processes, len(jobs)), timeout, log_levels) as pool:
        while queue or pool.is_busy:
            pool.hand_out(queue)
            yield from pool.collect()
