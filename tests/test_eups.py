"""The package as a product of EUPS, where there is a real one (``source .../bin/setups.sh`` first)."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from test_packaging import copy_checkout

ROOT = Path(__file__).resolve().parent.parent
SETUPS = Path(os.environ.get("EUPS_DIR", "/nonexistent")) / "bin" / "setups.sh"
COMMANDS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"])
VERSION = "0.1.0"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not SETUPS.exists(), reason="needs EUPS (EUPS_DIR)")]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package with a history of its own and a tag, as EUPS takes the version from git."""
    pytest.importorskip("lsst.sconsUtils", reason="needs lsst-sconsutils")
    copy = tmp_path_factory.mktemp("eups") / "twinkles_diffim"
    copy_checkout(copy)
    for path in (copy / "tests").glob("test_*.py"):  # those that scons will run
        if path.name != "test_ids.py":
            path.unlink()
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        [*identity, "commit", "-q", "-m", "Start"],
        ["tag", VERSION],
    ):
        subprocess.run(["git", *words], cwd=copy, check=True)
    return copy


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    """A function that runs lines in a shell with EUPS, whose stack is empty and our own."""
    stack = tmp_path_factory.mktemp("stack")
    (stack / "ups_db").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    scripts = Path(sys.executable).parent
    environment["PATH"] = os.pathsep.join((str(scripts), environment["PATH"]))

    def run(*lines):
        start = [f"source {SETUPS}", f"export EUPS_PATH={stack}", "set -e"]
        command = ["bash", "-c", "\n".join([*start, *lines])]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout

    return run


def test_set_up_in_place_built_installed_and_set_up_again(checkout, shell):
    printed = shell(f"cd {checkout}", "setup -r .", "scons", "echo WHERE $(which imageDifference.py)")
    assert "passed" in (checkout / "tests" / ".tests" / "pytest-twinkles_diffim.xml.out").read_text()
    assert f"WHERE {checkout}/bin/imageDifference.py" in printed
    assert sorted(path.name for path in (checkout / "bin").iterdir()) == COMMANDS

    shell(f"cd {checkout}", "setup -r .", "scons install declare")
    assert VERSION in shell("eups list twinkles_diffim").split()
    printed = shell(
        f"setup twinkles_diffim {VERSION}",
        "echo PRODUCT $TWINKLES_DIFFIM_DIR",
        "echo WHERE $(which imageDifference.py)",
        "echo FROM $(python -c 'import lsst.twinkles.diffim as p; print(p.__file__)')",
        "imageDifference.py --help",
        "ls $TWINKLES_DIFFIM_DIR/pipelines",
        "head -n 3 $TWINKLES_DIFFIM_DIR/python/lsst/twinkles/diffim/data/config/rubinVisitImage.py",
    )
    words = dict(
        line.split(maxsplit=1) for line in printed.splitlines() if line[:4] in ("PROD", "WHER", "FROM")
    )
    product = Path(words["PRODUCT"])
    assert product != checkout and product.name == VERSION
    assert words["WHERE"] == f"{product}/bin/imageDifference.py"
    assert words["FROM"] == f"{product}/python/lsst/twinkles/diffim/__init__.py"
    assert "usage: imageDifference.py REPO [options]" in printed
    assert "TwinklesImageDifference.yaml" in printed
    assert "Dataset names of Rubin's data releases" in printed

    shell(f"cd {checkout}", "setup -r .", "scons install current")
    assert str(product) in shell("setup twinkles_diffim", "echo $TWINKLES_DIFFIM_DIR")
