#!/usr/bin/env python
"""What surveys take: the cost of a visit by each way to run, and of it Twinkles and an LSST night.

Measured in CPU seconds, which say more than the clock does on a machine that others use too: the graph of
many visits, and what each way to run adds to the work proper of a visit, from visits of 48 x 48 pixels whose
stages do next to nothing; start-up is told apart by runs of different length. The work proper of a real
visit is measured with --repo, a repository with visits 230 and 250 such as make bench leaves in .cache/bench.
The numbers of doc/scaling.md are those that this prints.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
PIPELINE = ROOT / "pipelines" / "TwinklesImageDifference.yaml"
STUBS = """\
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask
config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
"""
MAKE_REPOSITORY = """\
import sys
from repositories import make_image
from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository
with create_repository(sys.argv[1]) as butler, ExposureIngester(butler, batch_size=128) as ingester:
    for visit in range(1, int(sys.argv[2]) + 1):
        ingester.add(make_image(visit, visit=visit, band="r"))
"""
BUILD_GRAPH = """\
import sys, time
from lsst.pipe.base import Pipeline
from lsst.pipe.base.separable_pipeline_executor import SeparablePipelineExecutor
from lsst.pipe.base.simple_pipeline_executor import SimplePipelineExecutor
repo, pipeline_file, template = sys.argv[1:]
with SimplePipelineExecutor.prep_butler(repo, inputs=["TwinklesCam/defaults"], output="u/bench") as butler:
    pipeline = Pipeline.fromFile(pipeline_file)
    pipeline.addConfigOverride("parameters", "templateVisit", int(template))
    pipeline.to_graph()
    executor = SeparablePipelineExecutor(butler)
    wall, cpu = time.perf_counter(), time.process_time()
    graph = executor.build_quantum_graph(pipeline, "instrument='TwinklesCam'", attach_datastore_records=True)
    print(len(graph), time.perf_counter() - wall, time.process_time() - cpu)
"""


WAYS = ("imageDifference.py -j 2", "runPipeline.py -j 2", "pipetask run -j 1", "pipetask run -j 2")


class Cost(NamedTuple):
    """What a process and all that it started took."""

    cpu: float
    wall: float


class Job(NamedTuple):
    """A survey."""

    name: str
    visits: int
    cores: int


JOBS = (
    Job("ten years of Twinkles", 22_000, 2),
    Job("ten years of Twinkles", 22_000, 64),
    Job("one LSST night", 189_000, 1024),
)


def main() -> int:
    """Measure and print; return the exit status."""
    args = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="twinkles-scaling-") as scratch:
        place = Path(scratch)
        (place / "stubs.py").write_text(STUBS)
        if args.graph:
            report_graph(place, args.graph)
        overheads = report_overheads(place, args)
        if args.repo is not None:
            report_surveys(measure_visit(place, args.repo.absolute()), overheads["runPipeline.py -j 2"])
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--graph", type=int, default=1000, help="visits of the graph; 0 leaves it out (1000)")
    parser.add_argument("--short", type=int, default=6, help="visits of the short runs (6)")
    parser.add_argument("--long", type=int, default=26, help="visits of the long runs (26)")
    parser.add_argument(
        "--ways", default="imageDifference.py,runPipeline.py,pipetask,bps", help="ways to run"
    )
    parser.add_argument(
        "--repo", type=Path, help="repository with visits 230 and 250 of the size to be measured"
    )
    args = parser.parse_args()
    if not 2 <= args.short < args.long:
        parser.error(f"--short must be at least 2 and less than --long; got {args.short} and {args.long}")
    return args


def report_graph(place: Path, n_visits: int) -> None:
    """Print what a repository and a graph of many visits take."""
    repo = place / "graph"
    cost = run([sys.executable, "-c", MAKE_REPOSITORY, repo, n_visits], place)
    print(f"ingest: {1e3 * cost.cpu / n_visits:.0f} CPU ms a visit")
    words = [sys.executable, "-c", BUILD_GRAPH, repo, PIPELINE, n_visits]
    output = subprocess.run(
        list(map(str, words)), env=environment(), capture_output=True, text=True, check=True
    ).stdout.split()
    print(f"graph of {output[0]} quanta: {float(output[1]):.1f} s, {float(output[2]):.1f} CPU s", flush=True)
    shutil.rmtree(repo)


def report_overheads(place: Path, args: argparse.Namespace) -> dict[str, float]:
    """Print and return what each way to run adds to a visit, CPU seconds."""
    template = args.long + 1
    original = place / "original"
    run([sys.executable, "-c", MAKE_REPOSITORY, original, template], place)
    print("\n| way to run | start, CPU s | each visit, CPU s |\n|---|---|---|")
    overheads = {}
    for way in WAYS:
        costs = []
        for n_visits in (args.short, args.long):
            repo = place / "repo"
            shutil.copytree(original, repo)
            costs.append(run(make_words(way, place, repo, n_visits, template), place).cpu)
            for name in ("repo", "out"):
                shutil.rmtree(place / name, ignore_errors=True)
        each = (costs[1] - costs[0]) / (args.long - args.short)
        overheads[way] = each
        print(f"| `{way}` | {costs[0] - each * args.short:.1f} | {each:.2f} |", flush=True)
    return overheads


def make_words(way: str, place: Path, repo: Path, n_visits: int, template: int) -> list[str]:
    """Return the command that processes the first visits of a repository."""
    query = f"instrument='TwinklesCam' AND visit IN (1..{n_visits}, {template})"
    pipeline = ["-b", repo, "-i", "TwinklesCam/defaults", "-o", "u/bench", "-p", PIPELINE, "-d", query]
    program, *rest = way.split()
    if program == "imageDifference.py":
        words = [repo, "--id", f"visit=1..{n_visits}", "--templateId", f"visit={template}"]
        words += ["--output", place / "out", "-C", place / "stubs.py", *rest]
    else:
        words = [*rest, *pipeline, "-C", f"imageDifference:{place}/stubs.py", "--register-dataset-types"]
        words += ["-c", f"parameters:templateVisit={template}"]
    return [str(Path(sys.executable).parent / program), *map(str, words)]


def measure_visit(place: Path, repo: Path) -> Cost:
    """Return what the work proper of one real visit takes: a run with it less one that has nothing to do."""
    words = [Path(sys.executable).parent / "imageDifference.py", repo, "--id", "visit=230"]
    words += ["--templateId", "visit=250", "--output", place / "out"]
    first, again = run(words, place), run(words, place)  # the second finds it done
    visit = Cost(first.cpu - again.cpu, first.wall - again.wall)
    size = sum(path.stat().st_size for path in (place / "out" / "deepDiff").rglob("*.fits"))
    print(f"\na visit of {repo.name}: {visit.cpu:.1f} CPU s, {size / 1e6:.0f} MB written")
    return visit


def report_surveys(visit: Cost, overhead: float) -> None:
    """Print what surveys of such visits take."""
    each = visit.cpu + overhead
    print(f"\nat {visit.cpu:.1f} + {overhead:.2f} CPU s a visit and CCD:")
    print("\n| survey | CCD visits | CPU h | cores | hours |\n|---|---|---|---|---|")
    for job in JOBS:
        hours = job.visits * each / 3600
        print(f"| {job.name} | {job.visits} | {hours:.0f} | {job.cores} | {hours / job.cores:.1f} |")


def environment() -> dict[str, str]:
    """Return the environment of a measured process: one thread, and the stages of the tests."""
    names = ("TWINKLES_DIFFIM_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return os.environ | dict.fromkeys(names, "1") | {"PYTHONPATH": str(TESTS), "PATH": path}


def run(words: list, place: Path) -> Cost:
    """Run a command; return what it and all that it waited for took."""
    log = place / "log"
    with log.open("wb") as stream:
        start = time.perf_counter()
        child = subprocess.Popen(
            list(map(str, words)),
            cwd=place,
            env=environment() | {"PWD": str(place)},
            stdout=stream,
            stderr=stream,
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(
            f"{' '.join(map(str, words))} ended with {child.returncode}:\n{log.read_text()[-3000:]}"
        )
    return Cost(usage.ru_utime + usage.ru_stime, wall)


if __name__ == "__main__":
    sys.exit(main())
