"""Quantum graphs executed by worker processes that stay, and runs that go on after a worker was killed."""

import json
import logging
import os
import pickle
import shutil
import uuid
from pathlib import Path
from types import SimpleNamespace

import networkx
import pytest
from lsst.daf.butler import Butler
from lsst.daf.butler.cli.cliLog import CliLog
from lsst.pipe.base.graph_walker import GraphWalker
from lsst.pipe.base.mp_graph_executor import MPGraphExecutorError
from repositories import make_repository

from lsst.twinkles.diffim.cli.graph_workers import _require_multiprocessing, _Tally
from lsst.twinkles.diffim.cli.run_pipeline import main
from lsst.twinkles.diffim.cli.runner import Outcome

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "pipelines" / "TwinklesImageDifference.yaml"
HERE = Path(__file__).resolve().parent
TEMPLATE = 9
STUBS = """\
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask
config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
"""


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A repository with six science visits and a template, to be copied."""
    root = tmp_path_factory.mktemp("graph") / "repo"
    make_repository(root, [(visit, "r") for visit in (1, 2, 3, 4, 5, TEMPLATE)]).close()
    return root


@pytest.fixture
def repo(original, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    shutil.copytree(original, tmp_path / "repo")
    yield tmp_path / "repo"
    CliLog.resetLog()
    logging.captureWarnings(False)


def run(repo, *words, stubs="", visits=(1, 2, 3, 4, 5)):
    """Run the command in this process."""
    config = repo / "stubs.py"
    config.write_text(STUBS + stubs)
    query = f"instrument='TwinklesCam' AND visit IN ({', '.join(map(str, (*visits, TEMPLATE)))})"
    common = ["-b", repo, "-i", "TwinklesCam/defaults", "--output-run", "u/run", "-p", PIPELINE, "-d", query]
    common += ["-C", f"imageDifference:{config}", "-c", f"parameters:templateVisit={TEMPLATE}"]
    common += ["--register-dataset-types", "--no-versions", "--no-log-tty"]
    return main([*map(str, common), *map(str, words)])


def results(repo):
    """Return identifier and file of every difference image, by visit; each visit is there once."""
    with Butler.from_config(str(repo)) as butler:
        refs = butler.query_datasets("deepDiff_differenceExp", "*", find_first=False, explain=False)
        found = {ref.dataId["visit"]: (ref.id, butler.getURI(ref).ospath) for ref in refs}
    assert len(found) == len(refs)
    assert all(Path(path).exists() for _, path in found.values())
    return found


def processes(repo):
    """Return the process that made each difference image, by visit."""
    with Butler.from_config(str(repo), collections="u/run") as butler:
        refs = butler.query_datasets("imageDifference_metadata", explain=False)
        metadata = {ref.dataId["visit"]: butler.get(ref).to_dict() for ref in refs}
    return {visit: value["imageDifference:subtract"]["processId"] for visit, value in metadata.items()}


def test_a_killed_worker_and_a_failure_cost_their_visits_and_a_second_run_makes_up_for_it(repo, tmp_path):
    trouble = f"config.subtract.dieVisits = [2]\nconfig.subtract.dieOnce = {str(tmp_path / 'died')!r}\n"
    summary = tmp_path / "summary.json"
    assert run(repo, "-j", 2, "--summary", summary, stubs=trouble) == 1
    assert (tmp_path / "died").exists()
    first = results(repo)
    assert sorted(first) == [1, 3, 4, 5]
    reports = json.loads(summary.read_text())["quantaReports"]
    status = {report["dataId"]["visit"]: report["status"] for report in reports}
    assert status == {1: "success", 2: "failure", 3: "success", 4: "success", 5: "success"}
    (text,) = (r["exceptionInfo"]["message"] for r in reports if r["status"] == "failure")
    assert "its worker process was ended by SIGKILL" in text
    made_by = processes(repo)
    assert len(set(made_by.values())) <= 3 and os.getpid() not in made_by.values()

    words = ["--extend-run", "--skip-existing", "--clobber-outputs"]
    assert run(repo, "-j", 2, *words, stubs=trouble) == 0
    second = results(repo)
    assert sorted(second) == [1, 2, 3, 4, 5]
    assert {visit: second[visit] for visit in first} == first


def test_one_process_is_this_one(repo):
    assert run(repo, "-j", 1, visits=(1,)) == 0
    assert processes(repo) == {1: os.getpid()}


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-d", "visit=77"], "the quantum graph is empty"),
        (["--pdb"], "--pdb needs a terminal"),
        (["--start-method", "forkserver"], "--start-method must be spawn, got forkserver"),
        (["--nonsense"], "No such option"),
    ],
)
def test_what_cannot_be_done_is_said(repo, capfd, words, text):
    assert run(repo, *words) != 0
    assert text in capfd.readouterr().err
    assert results_are_none(repo)


def results_are_none(repo):
    with Butler.from_config(str(repo)) as butler:
        return not list(butler.registry.queryDatasetTypes("deepDiff_*"))


@pytest.mark.slow
def test_a_failure_that_ends_the_run(repo, capfd):
    assert run(repo, "-j", 2, "--fail-fast", stubs="config.subtract.failVisits = [1, 2, 3, 4, 5]\n") == 1
    assert not results(repo)


# Quanta that need each other ------------------------------------------------------------------


class DataId(dict):
    """A data id as far as it is looked at."""

    @property
    def required_values(self):
        return tuple(self.values())


def make_graph(edges):
    """Return a graph of quanta, each named "task visit", with an edge where one needs another."""
    graph = networkx.DiGraph()
    names = {name for edge in edges for name in edge}
    ids = {name: uuid.uuid5(uuid.NAMESPACE_OID, name) for name in names}
    for name, quantum_id in ids.items():
        task, visit = name.split()
        node = SimpleNamespace(label=task, task_class=SimpleNamespace(canMultiprocess=task != "alone"))
        state = {
            "task_label": task,
            "data_id": DataId(visit=int(visit)),
            "quantum": name,
            "pipeline_node": node,
        }
        graph.add_node(quantum_id, **state)
    graph.add_edges_from((ids[one], ids[other]) for one, other in edges)
    return graph, ids


def test_quanta_wait_for_those_they_need_and_are_skipped_if_these_fail():
    graph, ids = make_graph([("a 1", "b 1"), ("b 1", "c 1"), ("a 2", "b 2"), ("b 2", "c 1"), ("b 2", "c 2")])
    report = SimpleNamespace(status=None, quantaReports=[])
    walker = GraphWalker(graph.copy())
    tally = _Tally(graph, walker, report)

    def ready():
        jobs = tally.make_jobs(next(walker))
        return {pickle.loads(job.quantum): job.label for job in jobs}

    first = ready()
    assert list(first) == ["a 1", "a 2"]
    tally.conclude(Outcome(first["a 2"], "done"))
    second = ready()
    assert list(second) == ["b 2"]
    tally.conclude(Outcome(first["a 1"], "failed", "oh", error=ValueError("oh")))
    assert ready() == {}
    tally.conclude(Outcome(second["b 2"], "done"))
    third = ready()
    assert list(third) == ["c 2"]  # c 1 needs b 1, which needs a 1
    tally.conclude(Outcome(third["c 2"], "done"))
    assert list(walker) == []
    names = {quantum_id: name for name, quantum_id in ids.items()}
    status = {names[r.quantumId]: r.status.value for r in report.quantaReports}
    skipped = dict.fromkeys(("b 1", "c 1"), "skipped")
    assert status == {"a 1": "failure", **skipped, **dict.fromkeys(("a 2", "b 2", "c 2"), "success")}
    assert tally.n_failed == 3


def test_tasks_that_want_to_be_alone_are_refused():
    graph, _ = make_graph([("a 1", "alone 1")])
    with pytest.raises(MPGraphExecutorError, match=r"\['alone'\] cannot run in worker processes; use -j 1"):
        _require_multiprocessing(graph)
