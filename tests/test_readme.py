"""What README.md says can be done: its commands are right, and (slow) work from top to bottom."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
OURS = [line for line in LINES if line.split()[0].endswith(".py")]
# Those for a fresh machine, which would install, or test within a test; the box has a test of its own.
ELSEWHERE = ("make", "pip", "setup", "scons", "PYTHONPATH=$PWD/python", "twinklesInABox.py")


def help_of(command):
    """Return what a command of ours says of itself."""
    module = next(
        line.split("from ")[1].split(" import")[0]
        for line in (ROOT / "bin.src" / command).read_text().splitlines()
        if line.startswith("from lsst.")
    )
    code = f"import sys; from {module} import main; sys.exit(main(['--help']))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_every_command_is_shown():
    assert {line.split()[0] for line in OURS} == {path.name for path in (ROOT / "bin.src").glob("*.py")}


def test_options_exist():
    for line in OURS:
        command, *words = shlex.split(line)
        known = help_of(command)
        for word in words:
            if word.startswith("--"):
                assert re.search(rf"(^|[\s,\[]){word}\b", known), f"{command} has no {word}"


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make (\w[\w-]*)", TEXT, flags=re.MULTILINE))
    assert {"demo", "test", "quality", "bench"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_files_that_are_linked_exist():
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    links += re.findall(r"(config/\S+\.py|pipelines/\S+\.yaml|ups/\S+\.table)", TEXT)
    assert len(links) > 8
    for link in links:
        assert (ROOT / link).exists(), link


def save_files(repo, folder):
    """Save the visits of a repository as files, for the commands that want some."""
    from lsst.daf.butler import Butler

    with Butler.from_config(str(repo), collections="TwinklesCam/defaults") as butler:
        for name, visit in (("science", 230), ("template", 250)):
            exposure = butler.get("calexp", instrument="TwinklesCam", visit=visit, detector=94)
            exposure.write(str(folder / f"{name}.fits"))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_it_all_works(tmp_path, monkeypatch):
    """Every command and every piece of Python, in their order, in a directory like a checkout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    for name in ("config", "pipelines"):
        (tmp_path / name).symlink_to(ROOT / name)
    namespace = {"__name__": "__main__"}
    n_run = 0
    for kind, block in BLOCKS:
        if kind == "python":
            # From a file, as a task looks for the source of its configuration.
            exec(compile(block, "README.md", "exec"), namespace)
            n_run += 1
            continue
        for line in block.splitlines():
            if line.split()[0] in ELSEWHERE:
                continue
            result = subprocess.run(line, shell=True, capture_output=True, text=True)
            assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
            n_run += 1
            if line.startswith("simulateTwinkles.py"):
                save_files(tmp_path / "REPO", tmp_path)
    assert n_run >= 12
    namespace["butler"].close()
    assert namespace["difference"].bbox == namespace["result"].subtractedExposure.bbox
    assert len(namespace["sources"]) > 0 and len(namespace["result"].diaSources) > 0
    assert namespace["config"].byClass.detection.thresholdValue == 5.5
