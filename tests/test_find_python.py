"""etc/find-python, which make starts with: finds a Python that fits, or says what is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "etc" / "find-python"


def fake_python(directory, name, *, fits, reason="it is 3.9"):
    """Make a command that answers the script's question as a Python would."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    answer = f"echo {path}" if fits else f"echo '{reason}' >&2; exit 1"
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)
    return path


def find(tmp_path, *arguments, **variables):
    """Run the script where the only commands are those of a folder of ours and of the system's shell."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("tail", "cat", "sh"):
        (tools / name).symlink_to(
            next(p for p in (Path("/usr/bin") / name, Path("/bin") / name) if p.exists())
        )
    environment = {"PATH": f"{tmp_path / 'path'}:{tools}", "HOME": str(tmp_path / "home"), **variables}
    return subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True)


def test_takes_the_first_that_fits(tmp_path):
    fake_python(tmp_path / "path", "python3.13", fits=False, reason="No module named ensurepip")
    expected = fake_python(tmp_path / "path", "python3.12", fits=True)
    result = find(tmp_path)
    assert (result.returncode, result.stdout) == (0, f"{expected}\n")


def test_finds_versions_of_pyenv_that_are_not_in_the_path(tmp_path):
    fake_python(tmp_path / "path", "python3.12", fits=False)
    expected = fake_python(tmp_path / "home/.pyenv/versions/3.13.2/bin", "python", fits=True)
    assert find(tmp_path).stdout == f"{expected}\n"


def test_asked_for_by_name_there_is_no_other(tmp_path):
    wrong = fake_python(tmp_path / "path", "python3.9", fits=False)
    fake_python(tmp_path / "path", "python3.13", fits=True)
    result = find(tmp_path, "", PYTHON=str(wrong))
    assert result.returncode != 0 and result.stdout == ""
    assert str(wrong) in result.stderr and "3.12 or newer" in result.stderr


def test_says_what_is_missing(tmp_path):
    for name in ("python3.13", "python3.12", "python3.14", "python3", "python"):
        fake_python(tmp_path / "path", name, fits=False)
    text = SCRIPT.read_text()
    script = tmp_path / "find-python"
    script.write_text(text.replace("/opt/homebrew", "/no").replace("/usr/", "/no/"))
    script.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'path'}:/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run([script], env=environment, capture_output=True, text=True)
    assert result.returncode != 0 and result.stdout == ""
    for words in ("was not found", "it is 3.9", "pyenv install", "PYTHON=/path/to/python"):
        assert words in result.stderr


@pytest.mark.parametrize("name", [sys.executable])
def test_the_real_check_accepts_this_python(name):
    result = subprocess.run([SCRIPT, name], capture_output=True, text=True, env=dict(os.environ))
    assert result.returncode == 0 and result.stdout.strip() == sys.executable
