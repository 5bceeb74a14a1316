"""Worker processes that stay: each imports and opens once, then does job after job."""

from __future__ import annotations

__all__ = ("WorkerPool",)

import dataclasses
import logging
import logging.handlers
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from .logs import COMMAND_LOGGER, LogLevels, current_label, set_levels
from .runner import Outcome, RunnerError, WorkMaker

_LOG = logging.getLogger(COMMAND_LOGGER)

_SPAWN = multiprocessing.get_context("spawn")
_THREAD_VARIABLES = (
    "TWINKLES_DIFFIM_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_LONGEST_WAIT_S = 86400.0
"""The system's timers overflow at some weeks; who waited in vain waits again."""

_GRACE_S = 5.0
"""Time that a worker has to clean up after it was told to end."""


class WorkerPool:
    """A number of worker processes.

    Parameters
    ----------
    make_work : callable
        See `.runner.run_jobs`.
    size : `int`
        Number of processes. The threads that this process might use are
        divided among them.
    timeout : `float` or `None`
        Longest time for a job, seconds.
    log_levels : sequence of `tuple`
        Levels of the workers' loggers; their messages are logged here.
    """

    def __init__(self, make_work: WorkMaker, size: int, timeout: float | None, log_levels: LogLevels) -> None:
        self._arguments = (make_work, tuple(log_levels))
        self._timeout = timeout
        self._n_threads = _threads_each(size)
        self._workers: list[_Worker] = []
        self._size = size

    def __enter__(self) -> WorkerPool:
        try:
            for _ in range(self._size):
                self._add_worker()
        except BaseException:
            self._end(politely=False)
            raise
        return self

    def __exit__(self, exc_type: object, exc: object, tb: object) -> None:
        self._end(politely=exc_type is None)

    @property
    def is_busy(self) -> bool:
        """Whether a job is being done (`bool`)."""
        return any(worker.job is not None for worker in self._workers)

    def hand_out(self, queue: deque[Any]) -> None:
        """Give jobs from the left of a queue to workers that wait for one."""
        n_busy = sum(worker.job is not None for worker in self._workers)
        while len(self._workers) < min(self._size, n_busy + len(queue)):
            self._add_worker()
        for worker in self._workers:
            if queue and worker.is_ready and worker.job is None:
                worker.give(queue.popleft(), self._timeout)

    def collect(self) -> Iterator[Outcome]:
        """Wait for something to happen; yield the outcomes of jobs that ended."""
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        patience = min(max(0.0, min(deadlines) - time.monotonic()), _LONGEST_WAIT_S) if deadlines else None
        talking = wait([worker.connection for worker in self._workers], patience)
        for worker in list(self._workers):
            if worker.connection in talking:
                yield from self._listen(worker)
            elif worker.deadline is not None and time.monotonic() >= worker.deadline:
                yield self._fail(worker, f"took longer than the {self._timeout:g} s of --timeout; given up")

    def _add_worker(self) -> None:
        with _environment(dict.fromkeys(_THREAD_VARIABLES, str(self._n_threads))), _no_interrupts():
            self._workers.append(_Worker(self._arguments))

    def _listen(self, worker: _Worker) -> Iterator[Outcome]:
        """Take in one message of a worker."""
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            worker.end(politely=True)
            cause = _describe_exit(worker.process.exitcode)
            if not worker.is_ready:
                self._workers.remove(worker)
                raise RunnerError(f"A worker process {cause} while it started.") from None
            if worker.job is not None:
                yield self._fail(worker, f"its worker process {cause}")
            else:
                self._workers.remove(worker)
            return
        if kind == "log":
            logging.getLogger(content.name).handle(content)
        elif kind == "ready":
            worker.is_ready = True
        elif kind == "broken":
            raise content
        else:
            worker.take_back()
            yield content

    def _fail(self, worker: _Worker, reason: str) -> Outcome:
        """End a worker, and give up the job that it has."""
        label = worker.job.label
        worker.end(politely=False)
        self._workers.remove(worker)
        _LOG.critical("Failed on dataId=%s: %s", label, reason)
        seconds = time.monotonic() - worker.start
        return Outcome(label, "failed", reason, seconds, RunnerError(f"dataId={label}: {reason}"))

    def _end(self, *, politely: bool) -> None:
        for worker in self._workers:
            worker.tell_to_end(politely=politely)
        for worker in self._workers:
            worker.end(politely=politely)
        self._workers.clear()


class _Worker:
    """One worker process as seen from the outside."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, *arguments))
        self.process.start()
        theirs.close()
        self.is_ready = False
        self.job: Any = None
        self.start = 0.0
        self.deadline: float | None = None

    def give(self, job: Any, timeout: float | None) -> None:
        self.job = job
        self.start = time.monotonic()
        self.deadline = None if timeout is None else self.start + timeout
        with suppress(OSError):  # it has died: noticed when it is listened to
            self.connection.send(job)

    def take_back(self) -> None:
        self.job = self.deadline = None

    def tell_to_end(self, *, politely: bool) -> None:
        if not politely:
            self.process.terminate()
        else:
            with suppress(OSError):
                self.connection.send(None)

    def end(self, *, politely: bool) -> None:
        """Wait for the process to end; after a while, kill it."""
        self.tell_to_end(politely=politely)
        self._drain()
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.connection.close()

    def _drain(self) -> None:
        """Wait, reading what the process says: it might be stuck on a full pipe."""
        limit = time.monotonic() + _GRACE_S
        while self.process.is_alive() and time.monotonic() < limit:
            try:
                if self.connection.poll(0.02):
                    self.connection.recv()
            except (EOFError, OSError):
                self.process.join(max(0.0, limit - time.monotonic()))


def _work(connection: Connection, make_work: WorkMaker, log_levels: LogLevels) -> None:
    """Be a worker: what runs in the new process."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _follow_parent()
    handler = _Forwarder(connection)
    logging.getLogger().addHandler(handler)
    set_levels(log_levels)
    try:
        context = make_work()
    except Exception as error:
        handler.send("broken", make_portable(error))
        return
    handler.send("ready", None)
    with context as work, suppress(EOFError):
        while (job := connection.recv()) is not None:
            outcome = work(job)
            if outcome.error is not None:
                outcome = dataclasses.replace(outcome, error=make_portable(outcome.error))
            handler.send("outcome", outcome)


def _leave(*_: object) -> None:
    # Raised, so that files which are being written are removed on the way out.
    sys.exit(128 + signal.SIGTERM)


def _follow_parent() -> None:
    """End this process when its parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only called in a worker"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="follow-parent").start()


class _Forwarder(logging.handlers.QueueHandler):
    """Sends log records, and anything else, through the one connection."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)  # type: ignore[arg-type]
        self._connection = connection
        self._sending = threading.Lock()

    def send(self, kind: str, content: Any) -> None:
        with self._sending:
            self._connection.send((kind, content))

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.data_id = current_label()
        return super().prepare(record)

    def enqueue(self, record: logging.LogRecord) -> None:
        self.send("log", record)


class _RemoteTracebackError(Exception):
    """Shows where in a worker an error came from."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def make_portable(error: BaseException) -> BaseException:
    """Return an error that survives pickling, its traceback as text at its side."""
    text = "".join(traceback.format_exception(error))
    try:
        if str(pickle.loads(pickle.dumps(error))) != str(error):
            raise ValueError("its message does not survive")
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return _PortableError(error, text)  # type: ignore[return-value]


class _PortableError:
    """An error and its traceback on their way to another process."""

    def __init__(self, error: BaseException, text: str) -> None:
        self.error, self.text = error, text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_error, (self.error, self.text)


def _rebuild_error(error: BaseException, text: str) -> BaseException:
    error.__cause__ = _RemoteTracebackError(text)
    return error


def _threads_each(size: int) -> int:
    """Return the number of threads for each of several processes."""
    from ..algorithms.threads import get_num_threads

    return max(1, get_num_threads() // size)


def _describe_exit(status: int | None) -> str:
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"ended with status {status}"


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Let processes started meanwhile be deaf to Ctrl-C, which is for the one that started them."""
    # This helper of multiprocessing, which starts by and by, would take the block away.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
