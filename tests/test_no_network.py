"""Commands that reach nothing outside the machine, nor could: every attempt is noted and fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_runs import HERE, config_file, pair_words, repository, visits_done

# Read by every interpreter that starts, workers too. The audit events are those of the socket module.
GUARD = """\
import os, sys

def guard(event, args):
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        place = args[0]
    elif event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"):
        place = args[1] if len(args) > 1 else None
        if isinstance(place, (str, bytes)):  # within the machine
            return
        if event == "socket.bind" and place[0] in ("::1", "127.0.0.1"):  # urllib3 sees whether there is IPv6
            return
    else:
        return
    with open({trace!r}, "a") as trace:
        print(event, place, file=trace)
    raise OSError(101, f"the test forbids {{event}} {{place}}")

sys.addaudithook(guard)
"""
CALL = "import sys\nfrom {module} import main\nif __name__ == '__main__':\n    sys.exit(main())"


@pytest.fixture
def guarded(tmp_path):
    """Run a command of ours with its network forbidden; the trace of attempts is to be empty."""
    (tmp_path / "guard").mkdir()
    trace = tmp_path / "attempts"
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD.format(trace=str(trace)))
    home = tmp_path / "home"  # without what astropy has fetched before
    home.mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(tmp_path / "guard"), str(HERE))),
        "ASTROPY_CACHE_DIR": str(home),
        "XDG_CACHE_HOME": str(home),
    }

    def run(module, *words):
        code = CALL.format(module=f"lsst.twinkles.diffim.cli.{module}")
        command = [sys.executable, "-c", code, *map(str, words)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert not trace.exists(), trace.read_text()
        assert result.returncode == 0, result.stderr
        return result.stderr

    run.environment = environment
    run.trace = trace
    return run


def test_the_guard_guards(guarded):
    code = "import socket\nsocket.create_connection(('example.org', 80))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=guarded.environment, capture_output=True, text=True)
    assert "the test forbids socket.getaddrinfo example.org" in result.stderr
    assert "getaddrinfo" in guarded.trace.read_text()


def test_the_command_in_a_worker(guarded, tmp_path):
    out = tmp_path / "out"
    guarded("image_difference", repository(), *pair_words(out), "-C", config_file(), "--timeout", "900")
    assert visits_done(out) == [230]


@pytest.mark.slow
def test_simulation_subtraction_and_files(guarded, tmp_path):
    repo, out = tmp_path / "repo", tmp_path / "out"
    guarded("simulate", repo, "--size", "300", "300", "--overload", "20")
    guarded("image_difference", repo, *pair_words(out), "-j", "2")
    science, template = sorted(Path(repo).rglob("calexp-*.fits"))[:2]
    guarded("subtract_exposures", science, template, "--output", tmp_path / "results")
