"""The second process of a first run compiles what the first will need, and no run depends on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lsst.twinkles.diffim.algorithms.measure import dipole_nb
from lsst.twinkles.diffim.cli import compile_ahead as module

REAL_RUN = """\
import json, sys
import numpy as np
from numba.core.dispatcher import Dispatcher
from lsst.twinkles.diffim.algorithms.measure.rehearse import rehearse

def compiled():
    names = [name for name in sys.modules if ".algorithms.measure." in name and name.endswith("_nb")]
    return {
        f"{name}.{key}": len(loop.signatures)
        for name in names
        for key, loop in vars(sys.modules[name]).items()
        if isinstance(loop, Dispatcher) and loop.signatures
    }

rehearse()
before = compiled()
sys.path.insert(0, sys.argv[1])
from small_pairs import make_pair
from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask
pair = make_pair(n_transients=6, signal_to_noise=40.0)
result = TwinklesImageDifferenceTask().run(pair.science, pair.template)
print(json.dumps([before, compiled(), len(result.diaSources)]))
"""


def test_the_rehearsal_leaves_a_real_run_nothing_to_compile():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REAL_RUN, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    rehearsed, both, n_sources = json.loads(done.stdout.splitlines()[-1])
    assert n_sources >= 6
    assert both == rehearsed
    for loop in ("dipole_nb.fit_dipoles", "group_fit_nb.fit_groups", "trail_nb.fit_trails"):
        assert any(name.endswith(loop) for name in rehearsed)


@pytest.fixture
def started(monkeypatch):
    """Processes that were started, which do nothing but wait; two threads may be used."""
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", "2")
    processes = []

    class Waiting(subprocess.Popen):
        def __init__(self, command, **options):
            assert command == [sys.executable, "-m", "lsst.twinkles.diffim.algorithms.measure.rehearse"]
            super().__init__([sys.executable, "-c", "import time; time.sleep(60)"], **options)
            processes.append(self)

    monkeypatch.setattr(module.subprocess, "Popen", Waiting)
    return processes


def keep(monkeypatch, place):
    """Let the cache of the longest loop be a directory, or nowhere (`None`)."""

    class Loop:
        stats = type("Stats", (), {"cache_path": None if place is None else str(place)})
        py_func = dipole_nb.fit_dipoles.py_func

    monkeypatch.setattr(module.dipole_nb, "fit_dipoles", Loop)


def test_an_empty_cache_starts_a_process_that_ends_with_the_block(monkeypatch, tmp_path, started):
    keep(monkeypatch, tmp_path)
    with pytest.raises(KeyboardInterrupt), module.compile_ahead():
        (process,) = started
        assert process.poll() is None
        raise KeyboardInterrupt
    assert process.poll() is not None


@pytest.mark.parametrize(("age", "expected"), [(-100.0, 1), (100.0, 0)])
def test_only_code_younger_than_its_source_counts(monkeypatch, tmp_path, started, age, expected):
    keep(monkeypatch, tmp_path)
    index = tmp_path / "dipole_nb.fit_dipoles-1.py313.nbi"
    index.touch()
    source = Path(dipole_nb.__file__).stat().st_mtime
    os.utime(index, (source + age, source + age))
    with module.compile_ahead():
        assert len(started) == expected


def test_nothing_is_started_without_a_cache_or_a_second_thread(monkeypatch, tmp_path, started):
    keep(monkeypatch, None)
    with module.compile_ahead():
        assert not started
    keep(monkeypatch, tmp_path)
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", "1")
    with module.compile_ahead():
        assert not started
