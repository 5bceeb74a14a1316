#!/usr/bin/env python
"""Time the stages of one subtraction in this process; a part of bench.py."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCIENCE, TEMPLATE = 230, 250

# Stage -> where it is: subtask of the task, and method. Methods of a subtask are parts of its run;
# what else the run does is the row REST.
STAGES = {
    "warp": ("getTemplate", "run"),
    "subtract": ("subtract", "run"),
    "  prepare": ("subtract", "_prepare_pair"),
    "  find stars": ("subtract", "_find_candidates"),
    "  match": ("subtract", "_match"),
    "  mask, assemble": ("subtract", "_assemble"),
    "decorrelate": ("decorrelate", "run"),
    "scale variance": ("scaleVariance", "run"),
    "detect": ("detection", "run"),
    "measure": ("measurement", "run"),
}


REST = "  convolve, subtract"


class Clock:
    """Adds up wall and CPU seconds by name."""

    def __init__(self) -> None:
        self.times: dict[str, dict[str, float]] = {}

    def time(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                entry = self.times.setdefault(name, {"wall": 0.0, "cpu": 0.0})
                entry["wall"] += time.perf_counter() - wall
                entry["cpu"] += time.process_time() - cpu

        return timed


def main() -> int:
    """Measure and write; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("repo", type=Path)
    parser.add_argument("report", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    from lsst.twinkles.diffim.cli.allocation import prepare_process

    warnings.filterwarnings("ignore")
    prepare_process()  # as the commands do
    if not args.cold:
        run_once(args.repo)
    runs = [run_once(args.repo) for _ in range(1 if args.cold else args.repeat)]
    best = min(runs, key=lambda run: run["task"]["wall"])
    args.report.write_text(json.dumps(best | reference_times(args.repo)))
    return 0


def run_once(repo: Path) -> dict[str, Any]:
    """Read, run the task, write; return the times."""
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    clock = Clock()
    science, template = clock.time("read", read_pair)(repo)
    task = TwinklesImageDifferenceTask()
    for name, (subtask, method) in STAGES.items():
        owner = getattr(task, subtask, None)
        if owner is not None and hasattr(owner, method):
            setattr(owner, method, clock.time(name, getattr(owner, method)))
    result = clock.time("task", task.run)(science, template)
    with tempfile.TemporaryDirectory(prefix="twinkles-bench-") as directory:
        clock.time("write", write_results)(repo, Path(directory) / "out", result)
    times = clock.times
    parts = [times[name] for name in STAGES if name.startswith(" ") and name in times]
    times[REST] = {key: times["subtract"][key] - sum(part[key] for part in parts) for key in ("wall", "cpu")}
    order = ["read", *STAGES, "write"]
    order.insert(order.index("  mask, assemble"), REST)
    return {"task": times["task"], "stages": {name: times[name] for name in order if name in times}}


def read_pair(repo: Path) -> tuple[Any, Any]:
    """Read science and template as the command does."""
    from lsst.daf.butler import Butler

    butler = Butler.from_config(str(repo), writeable=False)
    found = []
    for visit in (SCIENCE, TEMPLATE):
        (ref,) = butler.query_datasets(
            "calexp", collections="*", find_first=False, instrument="TwinklesCam", visit=visit
        )
        found.append(butler.get(ref))
    return found[0], found[1]


def write_results(repo: Path, out: Path, result: Any) -> None:
    """Write the results into a repository as the command does."""
    from lsst.daf.butler import Butler

    from lsst.twinkles.diffim.pipeline.output_repository import open_output_repository, put_outputs

    butler = Butler.from_config(str(repo), writeable=False)
    (ref,) = butler.query_datasets(
        "calexp", collections="*", find_first=False, instrument="TwinklesCam", visit=SCIENCE
    )
    repository = open_output_repository(out, butler, refs=[ref])
    products = {
        "differenceExp": result.subtractedExposure,
        "matchedExp": result.matchedExposure,
        "diaSrc": result.diaSources,
    }
    put_outputs(repository, dict(ref.dataId.required), products, inputs=[ref])


def reference_times(repo: Path) -> dict[str, float]:
    """Time what any program that touches every pixel, or every frequency, must do at least."""
    import numpy as np
    from scipy import fft

    image = np.ascontiguousarray(read_pair(repo)[0].image.array, dtype=np.float32)

    def quickest(function: Callable[[], Any]) -> tuple[float, float]:
        times = []
        for _ in range(5):
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            times.append((time.perf_counter() - wall, time.process_time() - cpu))
        walls, cpus = zip(*times, strict=True)
        return min(walls), min(cpus)

    fft_wall, fft_cpu = quickest(lambda: fft.irfft2(fft.rfft2(image), s=image.shape))
    return {"fft": fft_wall, "fft_cpu": fft_cpu, "copy": quickest(image.copy)[0]}


if __name__ == "__main__":
    sys.exit(main())
