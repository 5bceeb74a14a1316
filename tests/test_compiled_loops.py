"""Compiled loops are kept where that is possible, and work where it is not."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import lsst.twinkles.diffim.algorithms.compile_nb as module

LOOP = """\
import logging, sys
logging.basicConfig()
sys.path.insert(0, {folder!r})
from compile_nb import njit  # as the package's own modules do
from loop import double
print(double(21), sum(double.stats.cache_hits.values()), type(double._cache).__name__)
"""


@pytest.fixture
def folder(tmp_path):
    """A read-only installation of one loop, for those who may not override permissions."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    shutil.copy(module.__file__, folder)
    (folder / "loop.py").write_text(
        "from compile_nb import njit\n\n@njit(cache=True)\ndef double(x):\n    return 2 * x\n"
    )
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


def run_loop(folder, home):
    """Call the loop in a new process; return what it printed and what it logged."""
    code = LOOP.format(folder=str(folder))
    command = [sys.executable, "-B", "-c", code]
    if os.geteuid() == 0:  # root as well is to be held back by the permissions
        if shutil.which("setpriv") is None:
            pytest.skip("permissions do not hold root back, and there is no setpriv")
        command = ["setpriv", "--bounding-set=-dac_override", "--inh-caps=-all", *command]
    environment = {k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    done = subprocess.run(
        command, env=environment | {"HOME": str(home)}, capture_output=True, text=True, check=True
    )
    return done.stdout.split(), done.stderr


def test_read_only_installation_uses_the_cache_of_the_user(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    assert run_loop(folder, home) == (["42", "0", "FunctionCache"], "")
    assert list(home.rglob("*.nbc"))
    assert run_loop(folder, home) == (["42", "1", "FunctionCache"], "")
    assert {path.name for path in folder.iterdir()} == {"compile_nb.py", "loop.py"}


def test_first_runs_at_the_same_time_do_each_other_no_harm(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: run_loop(folder, home), range(4)))
    # Each compiles it or finds it compiled; none fails, none warns.
    assert {(words[0], words[2], log) for words, log in runs} == {("42", "FunctionCache", "")}
    assert run_loop(folder, home) == (["42", "1", "FunctionCache"], "")


def test_without_any_place_the_loop_is_compiled_and_that_is_said(folder):
    words, log = run_loop(folder, folder / "none")
    assert words == ["42", "0", "NullCache"]
    assert log.count("no place to keep compiled loops") == 1 and "Set NUMBA_CACHE_DIR" in log


def test_other_errors_pass(monkeypatch):
    def refuse(**options):
        raise RuntimeError("something else")

    monkeypatch.setattr(module.numba, "njit", refuse)
    with pytest.raises(RuntimeError, match="something else"):
        module.njit(cache=True)(len)
