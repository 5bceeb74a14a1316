"""Quantum graphs executed by worker processes that stay, and runs that go on after a worker was killed."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from lsst.daf.butler import Butler
from lsst.daf.butler.cli.cliLog import CliLog
from repositories import make_repository

from lsst.twinkles.diffim.cli.run_pipeline import main

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


def test_a_failure_that_ends_the_run(repo, capfd):
    assert run(repo, "-j", 2, "--fail-fast", stubs="config.subtract.failVisits = [1, 2, 3, 4, 5]\n") == 1
    assert not results(repo)
