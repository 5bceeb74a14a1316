"""Processes killed in the middle of a visit: afterwards no visit is lost and none is there twice."""

import random
import signal
import time

import numpy as np
import psutil
import pytest
from command_runs import HERE, command, fetch, pair_words, start_command, stored, visits_done
from repositories import files_below, make_image

from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository

VISITS = [230, 231, 232, 251]


def test_a_killed_worker_costs_its_visit_until_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    out = tmp_path / "out"
    words = [*pair_words(out, "230..232^251"), "-j", "2"]
    words += ["-c", "subtract.dieVisits=[231]", f"subtract.dieOnce={tmp_path / 'died'}"]
    first = command(*words)
    assert first.status == 1, first.stderr
    assert (tmp_path / "died").exists()
    assert first.lines("Failed on dataId=", "'visit': 231", "ended by SIGKILL")
    assert visits_done(out) == [230, 232, 251]
    files = {name: (out / name).stat().st_mtime_ns for name in files_below(out)}
    second = command(*words)
    assert second.status == 0, second.stderr
    assert second.lines("Of 4 data ids: 1 done, 3 skipped")
    assert visits_done(out) == VISITS
    assert {name: (out / name).stat().st_mtime_ns for name in files if "packages" not in name}.items() <= {
        name: (out / name).stat().st_mtime_ns for name in files_below(out)
    }.items()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A repository with twelve science visits and a template."""
    root = tmp_path_factory.mktemp("many") / "repo"
    with create_repository(root) as butler, ExposureIngester(butler) as ingester:
        for visit in range(1, 14):
            ingester.add(make_image(visit, visit=visit, band="r", size=300))
    return root


def run_and_kill(words, repo, after, delay):
    """Start the command, kill all of it after some visits are done and a moment more; return what it said."""
    process = start_command(*words, repo=repo)
    said = []
    for line in process.stderr:
        said.append(line)
        if f"[{after}/" in line:
            break
    time.sleep(delay)
    family = [process, *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.send_signal(signal.SIGKILL)
    process.communicate()
    psutil.wait_procs(family[1:], timeout=60)
    return "".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_again_and_again_gives_what_an_undisturbed_one_gives(many, tmp_path, seed):
    rng = random.Random(seed)
    undisturbed, disturbed = tmp_path / "a", tmp_path / "b"
    assert command(*pair_words(undisturbed, "1..12", 13), repo=many).status == 0
    words = [*pair_words(disturbed, "1..12", 13), "-j", "2", "--no-versions"]
    n_done = []
    for _ in range(4):
        said = run_and_kill(words, many, rng.choice([1, 1, 2]), rng.uniform(0.0, 0.5))
        assert "Failed" not in said, said
        n_done.append(len(visits_done(disturbed)))
    assert n_done == sorted(n_done) and n_done[0] >= 1
    run = command(*words, repo=many)
    assert run.status == 0, run.stderr
    assert visits_done(disturbed) == list(range(1, 13))
    assert stored(disturbed) == stored(undisturbed)
    assert files_below(disturbed) == files_below(undisturbed)
    for visit in (1, 6, 12):
        one, other = (fetch(out, "differenceExp", visit) for out in (undisturbed, disturbed))
        np.testing.assert_array_equal(one.image.array, other.image.array)
    assert not list((disturbed / ".staging").glob("*"))
