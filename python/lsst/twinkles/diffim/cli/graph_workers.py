"""Execute a quantum graph by worker processes that stay."""

from __future__ import annotations

__all__ = ("QuantumJob", "QuantumSetup", "WorkerGraphExecutor")

import logging
import pickle
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from lsst.daf.butler.cli.cliLog import CliLog
from lsst.daf.butler.logging import ButlerMDC
from lsst.pipe.base import InvalidQuantumError
from lsst.pipe.base.graph_walker import GraphWalker
from lsst.pipe.base.mp_graph_executor import MPGraphExecutor, MPGraphExecutorError
from lsst.pipe.base.quantum_reports import ExecutionStatus, QuantumReport, Report

from .logs import data_id_label
from .runner import Outcome, Work
from .workers import WorkerPool

if TYPE_CHECKING:
    from lsst.pipe.base.pipeline_graph import TaskNode
    from lsst.pipe.base.quantum_graph_executor import QuantumExecutor

_LOG = logging.getLogger("lsst.twinkles.diffim.graph")

type QuantumGraph = Any
"""``networkx.DiGraph`` of quantum identifiers, with the attributes that the framework gives them."""


@dataclass(frozen=True)
class QuantumJob:
    """One quantum on its way to a worker."""

    label: str
    """Task and data id as text (`str`)."""

    task_label: str
    """Label of the task in its pipeline (`str`)."""

    quantum_id: uuid.UUID
    """Identifier (`uuid.UUID`)."""

    quantum: bytes
    """The quantum, pickled: it can only be read where a Butler has been opened (`bytes`)."""


@dataclass(frozen=True)
class QuantumSetup:
    """All that a process needs to execute quanta of a graph."""

    executor: bytes
    """Executor of single quanta, pickled (`bytes`)."""

    task_nodes: bytes
    """Tasks of the pipeline by label, pickled (`bytes`)."""

    log_levels: tuple[tuple[str | None, str], ...] = ()
    """Component and level, as ``--log-level`` of the middleware's commands has them (`tuple`)."""

    @contextmanager
    def __call__(self) -> Iterator[Work]:
        """Import tasks and open the repository in the process that is to do the work."""
        ButlerMDC.add_mdc_log_record_factory()
        CliLog.setLogLevels(list(self.log_levels))
        # In this order: the executor brings the dimensions that all the others refer to.
        executor: QuantumExecutor = pickle.loads(self.executor)
        task_nodes: dict[str, TaskNode] = pickle.loads(self.task_nodes)
        yield lambda job: _execute(executor, task_nodes[job.task_label], job)


class WorkerGraphExecutor(MPGraphExecutor):
    """Executor of quantum graphs whose worker processes stay.

    It takes the parameters of its base class, which starts a new interpreter
    for every quantum when it has more than one process. Here each process
    imports the tasks and opens the repository once, and then executes one
    quantum after the other.

    Parameters
    ----------
    log_levels : sequence of `tuple`, optional
        Levels of the workers' loggers, component and level; their messages are
        logged in this process.
    **kwargs
        Parameters of `lsst.pipe.base.mp_graph_executor.MPGraphExecutor`. The
        start method is always ``spawn``.

    Notes
    -----
    A worker that dies or takes longer than ``timeout`` costs the quantum that
    it had and those that depend on it; another worker takes its place.
    """

    def __init__(self, *, log_levels: Sequence[tuple[str | None, str]] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._log_levels = tuple(log_levels)

    def _execute_quanta_mp(self, xgraph: QuantumGraph, report: Report) -> None:
        _require_multiprocessing(xgraph)
        walker: GraphWalker[uuid.UUID] = GraphWalker(xgraph.copy())
        tally = _Tally(xgraph, walker, report)
        queue: deque[QuantumJob] = deque()
        size = min(self._num_proc, len(xgraph))
        with WorkerPool(self._make_setup(xgraph), size, self._timeout, ()) as pool:
            for unblocked in walker:
                queue.extend(tally.make_jobs(unblocked))
                pool.hand_out(queue)
                for outcome in pool.collect():
                    tally.conclude(outcome)
                    if outcome.error is not None and self._is_the_end(outcome.error):
                        raise MPGraphExecutorError(f"{outcome.label} failed.") from outcome.error
        if tally.n_failed:
            raise MPGraphExecutorError(f"{tally.n_failed} of {len(xgraph)} quanta failed or were skipped.")

    def _make_setup(self, xgraph: QuantumGraph) -> QuantumSetup:
        """Pack what the workers need."""
        nodes = (state["pipeline_node"] for state in xgraph.nodes.values())
        task_nodes = {node.label: node for node in nodes}
        return QuantumSetup(pickle.dumps(self._quantum_executor), pickle.dumps(task_nodes), self._log_levels)

    def _is_the_end(self, error: BaseException) -> bool:
        """Whether nothing else is to be done after an error."""
        return self._fail_fast or isinstance(error, InvalidQuantumError)


class _Tally:
    """Keeps count of the quanta of a graph."""

    def __init__(self, xgraph: QuantumGraph, walker: GraphWalker[uuid.UUID], report: Report) -> None:
        self._xgraph = xgraph
        self._walker = walker
        self._report = report
        self._ids: dict[str, uuid.UUID] = {}
        self._n_done = 0
        self.n_failed = 0

    def make_jobs(self, quantum_ids: frozenset[uuid.UUID]) -> list[QuantumJob]:
        """Return jobs for quanta, in the order of their tasks and data ids."""
        jobs = [self._make_job(quantum_id) for quantum_id in sorted(quantum_ids, key=self._sort_key)]
        self._ids.update((job.label, job.quantum_id) for job in jobs)
        return jobs

    def conclude(self, outcome: Outcome) -> None:
        """Take note of what became of a quantum."""
        quantum_id = self._ids.pop(outcome.label)
        blocked: list[uuid.UUID] = []
        if outcome.error is None:
            self._n_done += 1
            self._walker.finish(quantum_id)
        else:
            blocked = self._walker.fail(quantum_id)
            self.n_failed += 1 + len(blocked)
            self._report.status = ExecutionStatus.FAILURE
        self._report.quantaReports.append(self._describe(quantum_id, outcome.error))
        self._report.quantaReports.extend(self._describe_blocked(q) for q in blocked)
        self._log(outcome, len(blocked))

    def _make_job(self, quantum_id: uuid.UUID) -> QuantumJob:
        state = self._xgraph.nodes[quantum_id]
        label = f"{state['task_label']}@{state['data_id']}"
        return QuantumJob(label, state["task_label"], quantum_id, pickle.dumps(state["quantum"]))

    def _sort_key(self, quantum_id: uuid.UUID) -> tuple[Any, ...]:
        state = self._xgraph.nodes[quantum_id]
        return (state["task_label"], *state["data_id"].required_values)

    def _describe(self, quantum_id: uuid.UUID, error: BaseException | None) -> QuantumReport:
        state = self._xgraph.nodes[quantum_id]
        arguments = {"dataId": state["data_id"], "taskLabel": state["task_label"], "quantumId": quantum_id}
        if error is None:
            return QuantumReport(**arguments)
        return QuantumReport.from_exception(exception=cast(Exception, error), **arguments)

    def _describe_blocked(self, quantum_id: uuid.UUID) -> QuantumReport:
        state = self._xgraph.nodes[quantum_id]
        return QuantumReport(
            dataId=state["data_id"],
            taskLabel=state["task_label"],
            quantumId=quantum_id,
            status=ExecutionStatus.SKIPPED,
        )

    def _log(self, outcome: Outcome, n_blocked: int) -> None:
        """Log how far the graph is."""
        if outcome.error is not None:
            after = f"; {n_blocked} quanta that need its results are skipped" if n_blocked else ""
            _LOG.error("%s failed: %s%s", outcome.label, outcome.message, after, exc_info=outcome.error)
        _LOG.info(
            "[%d/%d] %s took %.1f s; %d failed or skipped so far.",
            self._n_done + self.n_failed,
            len(self._xgraph),
            outcome.label,
            outcome.seconds,
            self.n_failed,
        )


def _execute(executor: QuantumExecutor, task_node: TaskNode, job: QuantumJob) -> Outcome:
    """Execute a quantum in a worker; never raises on account of the data."""
    start = time.monotonic()
    with data_id_label(job.label):
        try:
            executor.execute(task_node, pickle.loads(job.quantum), quantum_id=job.quantum_id)
        except Exception as error:
            return Outcome(job.label, "failed", str(error), time.monotonic() - start, error)
    return Outcome(job.label, "done", "", time.monotonic() - start)


def _require_multiprocessing(xgraph: QuantumGraph) -> None:
    """Refuse a pipeline with tasks that cannot run in another process."""
    nodes = {state["task_label"]: state["pipeline_node"] for state in xgraph.nodes.values()}
    refusing = sorted(label for label, node in nodes.items() if not node.task_class.canMultiprocess)
    if refusing:
        raise MPGraphExecutorError(f"Tasks {refusing} cannot run in worker processes; use -j 1.")
