"""Jobs in one process and in several: what comes back, who is ended, what is left."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
import traceback

import psutil
import pytest
import worker_jobs
from command_runs import (
    HERE,
    command,
    fetch,
    pair_words,
    start_command,
    visits_done,
)
from worker_jobs import Job, make_work

from lsst.twinkles.diffim.cli.runner import RunnerError, run_jobs
from lsst.twinkles.diffim.cli.workers import make_portable

PATIENCE_S = 60.0


def wait_for(condition, what):
    """Wait until a condition holds."""
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit, f"waited in vain for {what}"
        time.sleep(0.05)


def jobs(*actions):
    return [Job(f"job{number}", action) for number, action in enumerate(actions)]


def by_label(outcomes):
    return {outcome.label: outcome for outcome in outcomes}


# Jobs that import nothing --------------------------------------------------------------------


def test_one_process_is_this_one():
    outcomes = list(run_jobs(make_work, jobs("", "fail", "")))
    assert [outcome.label for outcome in outcomes] == ["job0", "job1", "job2"]
    assert outcomes[0].message.startswith(f"{os.getpid()} ")
    assert [outcome.kind for outcome in outcomes] == ["done", "failed", "done"]


def test_workers_stay_and_share_out_the_threads(monkeypatch):
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    outcomes = list(run_jobs(make_work, jobs(*[""] * 8), processes=2))
    assert sorted(outcome.label for outcome in outcomes) == [f"job{n}" for n in range(8)]
    workers = {outcome.message.split()[0] for outcome in outcomes}
    assert 1 <= len(workers) <= 2 and str(os.getpid()) not in workers
    assert {tuple(outcome.message.split()[1:]) for outcome in outcomes} == {("2", "2")}
    assert (os.environ["TWINKLES_DIFFIM_NUM_THREADS"], os.environ["OMP_NUM_THREADS"]) == ("5", "3")
    assert all(not psutil.pid_exists(int(worker)) for worker in workers)


def test_messages_of_workers_arrive_with_their_level_and_data_id(caplog):
    with caplog.at_level(logging.DEBUG, "lsst.jobs"):
        list(run_jobs(make_work, jobs("log an error"), timeout=60.0, log_levels=[("jobs", "debug")]))
    begin, error = (record for record in caplog.records if record.name == "lsst.jobs")
    assert (begin.levelname, begin.getMessage(), begin.data_id) == ("DEBUG", "begin job0", "job0")
    assert error.levelname == "ERROR" and "ValueError: inside" in error.getMessage()
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "lsst.jobs"):
        list(run_jobs(make_work, jobs(""), timeout=60.0, log_levels=[("jobs", "warn")]))
    assert not [record for record in caplog.records if record.name == "lsst.jobs"]


def test_a_worker_that_dies_or_takes_too_long_costs_one_job(caplog):
    start = time.monotonic()
    todo = jobs("", "die", "sleep", "exit", "", "")
    outcomes = by_label(run_jobs(make_work, todo, processes=2, timeout=2.0))
    assert time.monotonic() - start < 40
    kinds = [outcomes[f"job{n}"].kind for n in range(6)]
    assert kinds == ["done", "failed", "failed", "failed", "done", "done"]
    assert "ended by SIGKILL (out of memory?)" in outcomes["job1"].message
    assert "took longer than the 2 s of --timeout" in outcomes["job2"].message
    assert outcomes["job2"].seconds == pytest.approx(2.0, abs=1.5)
    assert "ended with status 7" in outcomes["job3"].message
    assert "Failed on dataId=job1: its worker process was ended by SIGKILL" in caplog.text
    with pytest.raises(RunnerError, match="dataId=job1"):
        raise outcomes["job1"].error


def test_errors_come_back_with_their_traceback():
    outcomes = by_label(run_jobs(make_work, jobs("fail", "fail heavily"), processes=2))
    error = outcomes["job0"].error
    assert isinstance(error, ZeroDivisionError) and str(error) == "it failed"
    heavy = outcomes["job1"].error
    assert isinstance(heavy, RuntimeError) and str(heavy) == "HeavyError: a b"


def test_a_portable_error_shows_where_it_came_from():
    try:
        worker_jobs.make_broken_work()
    except OSError as error:
        copy = pickle.loads(pickle.dumps(make_portable(error)))
    assert isinstance(copy, OSError) and copy.errno == 28
    text = "".join(traceback.format_exception(copy))
    assert "in make_broken_work" in text and text.endswith("OSError: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (worker_jobs.make_broken_work, OSError, "No space left"),
        (worker_jobs.die_at_once, RunnerError, "ended with status 3 while it started"),
    ],
)
def test_workers_that_cannot_start(make, error, message):
    with pytest.raises(error, match=message):
        list(run_jobs(make, jobs("", ""), processes=2))


def test_an_abandoned_run_ends_its_workers_after_they_cleaned_up(tmp_path):
    trace = tmp_path / "trace"
    running = run_jobs(
        make_work,
        [Job("a", "sleep", str(trace)), Job("b", "wait", str(trace)), Job("c", "talk much")],
        processes=2,
    )
    assert next(running).label == "b"
    worker = int(trace.read_text())
    running.close()
    assert trace.with_suffix(".cleaned").exists()
    assert not psutil.pid_exists(worker)


def start_worker(trace):
    """Start a process with a worker that sleeps; return both."""
    code = (
        "from worker_jobs import *\nfrom lsst.twinkles.diffim.cli.runner import run_jobs\n"
        "if __name__ == '__main__':\n"
        f"    list(run_jobs(make_work, [Job('a', 'sleep', {str(trace)!r})], timeout=100.0))"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(HERE)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(trace.exists, "the worker")
    return parent, psutil.Process(int(trace.read_text()))


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path):
    parent, worker = start_worker(tmp_path / "trace")
    parent.kill()
    parent.communicate()
    wait_for(lambda: is_gone(worker), "the worker's end")


def test_an_interrupt_from_the_terminal_is_for_the_parent_alone(tmp_path):
    trace = tmp_path / "trace"
    parent, worker = start_worker(trace)
    os.killpg(parent.pid, signal.SIGINT)  # as Ctrl-C does
    _, stderr = parent.communicate(timeout=PATIENCE_S)
    assert stderr.count("Traceback") == 1 and stderr.endswith("KeyboardInterrupt\n")
    assert is_gone(worker)
    assert trace.with_suffix(".cleaned").exists()


# The command ---------------------------------------------------------------------------------


def test_the_command_with_two_workers(tmp_path, monkeypatch):
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", "4")
    out = tmp_path / "out"
    words = ["-j", "2", "-c", "subtract.failVisits=[231]"]
    run = command(*pair_words(out, "230..232^251"), *words, "-L", "imageDifference.subtract=debug")
    assert run.status == 1, run.stderr
    assert visits_done(out) == [230, 232, 251]
    assert run.lines("FATAL: Failed on dataId=", "'visit': 231", "Too few stars")
    assert len(run.lines("DEBUG: At work on visit")) == 4
    assert run.lines("[4/4]") and run.lines("Of 4 data ids: 3 done, 1 failed")
    figures = [
        fetch(out, "metadata", visit).to_dict()["imageDifference:subtract"] for visit in (230, 232, 251)
    ]
    assert {tuple(figure["threads"]) for figure in figures} == {(2, 2)}
    assert os.getpid() not in {figure["processId"] for figure in figures}
    assert command(*pair_words(out, "230^232^251"), *words).lines("Of 3 data ids: 3 skipped")


def test_timeouts(tmp_path, monkeypatch):
    found = []

    def note(work, jobs, **kwargs):
        found.append(kwargs["timeout"])
        yield from ()

    monkeypatch.setattr("lsst.twinkles.diffim.cli.runner.run_jobs", note)
    for words in ([], ["-j", "2"], ["-t", "3"], ["-j", "2", "-t", "3"]):
        command(*pair_words(tmp_path / "out"), *words)
    assert found == [None, 9999.0, 3.0, 3.0]


@pytest.mark.slow
def test_doraise_with_a_worker(tmp_path):
    words = ["--timeout", "60", "--doraise", "-c", "subtract.bugVisits=[230]"]
    with pytest.raises(ZeroDivisionError, match="a bug") as caught:
        command(*pair_words(tmp_path / "out"), *words)
    assert "stub_stages.py" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("end", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_early_end_in_one_process_and_a_second_run(tmp_path, end, status):
    out = tmp_path / "out"
    words = ["subtract.signalVisits=[231]", f"subtract.signal={end.value}"]
    run = command(*pair_words(out, "230..232"), "-c", *words)
    assert run.status == status
    assert (end is signal.SIGINT) == ("interrupted; what was finished is kept" in run.stderr)
    assert "Traceback" not in run.stderr
    assert visits_done(out) == [230]
    assert not list(out.glob(".staging/*"))
    # The configuration differs by the stub's whim only.
    run = command(*pair_words(out, "230..232"), "--clobber-config")
    assert run.status == 0 and visits_done(out) == [230, 231, 232]


@pytest.mark.parametrize(
    ("end", "status"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGKILL, -signal.SIGKILL)],
)
def test_workers_and_files_after_an_early_end(tmp_path, end, status):
    out = tmp_path / "out"
    words = [*pair_words(out, "230^231"), "-c", "subtract.sleepVisits=[231]", "--no-versions"]
    process = start_command(*words, "--timeout", "100")  # in a worker
    lines = []
    while not lines or "[1/2]" not in lines[-1]:
        lines.append(process.stderr.readline())
        assert lines[-1], "".join(lines)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    if end is signal.SIGINT:
        os.killpg(process.pid, end)  # as Ctrl-C does
    else:
        process.send_signal(end)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == status, stderr
    assert "Traceback" not in stderr
    assert (end is signal.SIGINT) == ("interrupted; what was finished is kept" in stderr)
    wait_for(lambda: not any(worker.is_running() for worker in workers), "the workers' end")
    assert visits_done(out) == [230]

    run = command(*words, "-c", "subtract.sleepSeconds=0", "--clobber-config")
    assert run.status == 0, run.stderr
    assert visits_done(out) == [230, 231]
