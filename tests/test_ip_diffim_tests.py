"""The command that runs ip_diffim's own tests with our classes: on a package of that name made here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "etc" / "try-ip-diffim-tests"

CLASSES = """
from lsst.pex.config import Config
class {stem}Config(Config): pass
class {stem}Task: ConfigClass = {stem}Config
untouched = 1
"""

TESTS = """
from lsst.ip.diffim import subtractImages, AlardLuptonSubtractTask
from lsst.twinkles.diffim import stack

def test_ours():
    assert subtractImages.AlardLuptonSubtractTask is AlardLuptonSubtractTask is stack.AlardLuptonSubtractTask
    assert subtractImages.AlardLuptonSubtractConfig is stack.AlardLuptonSubtractConfig
    assert subtractImages.untouched == 1

def test_that_fails():
    assert False
"""


@pytest.fixture
def ip_diffim(tmp_path):
    """A package ``lsst.ip.diffim`` of placeholders, and tests of it."""
    package = tmp_path / "python" / "lsst" / "ip" / "diffim"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("")
    for module, stem in (("subtractImages", "AlardLuptonSubtract"), ("detectAndMeasure", "DetectAndMeasure")):
        (package / f"{module}.py").write_text(CLASSES.format(stem=stem))
    (package / "__init__.py").write_text("from .subtractImages import AlardLuptonSubtractTask\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_subtractTask.py").write_text(TESTS)
    return tmp_path


def run(*words, path=None):
    """Run the command where ``lsst.ip`` is found below a directory."""
    environment = dict(os.environ)
    environment.pop("IP_DIFFIM_DIR", None)
    code = "import lsst, runpy, sys; lsst.__path__.append(sys.argv[1]); sys.argv[:] = sys.argv[2:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(path), str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")


def test_tests_meet_our_classes(ip_diffim):
    result = run(ip_diffim / "tests", "-q", path=ip_diffim / "python" / "lsst")
    assert result.returncode == 1 and "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr


def test_what_is_missing_is_said(ip_diffim, tmp_path):
    result = run(tmp_path / "none", path=ip_diffim / "python" / "lsst")
    assert result.returncode == 2 and "give the folder" in result.stderr
    result = run(tmp_path, path=tmp_path / "nothing")
    assert result.returncode == 2 and "setup ip_diffim" in result.stderr
