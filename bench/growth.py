#!/usr/bin/env python
"""How time grows: with pixels, with kernel stars and with detections. Called by ``make growth``.

Seconds of the processor on one thread, on simulated pairs of the common seeing (science wider); the quickest
of several runs. ``per`` is the time over the number of what grows: where it does not rise, growth is linear
or less.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import Any


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[512, 1024, 2048], help="sides of the images in pixels"
    )
    parser.add_argument("--repeat", type=int, default=2, help="runs of which the quickest counts (2)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    largest = simulate(max(args.sides))
    subtract(simulate(300), repeat=1)  # compiles
    print_table("pixels (millions)", *pixel_rows(args, largest))
    print_table("kernel stars", *star_rows(args, largest))
    print_table("detections", *detection_rows(args, largest))
    return 0


def simulate(side: int) -> Any:
    """Return a pair of exposures."""
    from lsst.twinkles.diffim.simulation.pairs import simulate_pair

    return simulate_pair("std", seed=1, nx=side, ny=side)


def subtract(pair: Any, *, repeat: int, **overrides: Any) -> tuple[dict[str, float], Any]:
    """Run the task; return CPU seconds of its stages, and the result of the last run."""
    from quality import set_field
    from stages import Clock

    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    runs = []
    for _ in range(repeat):
        config = TwinklesImageDifferenceTask.ConfigClass()
        for name, value in overrides.items():
            set_field(config, name.replace("__", "."), str(value))
        task, clock = TwinklesImageDifferenceTask(config=config), Clock()
        for name in ("subtract", "detection", "deblend", "measurement"):
            stage = getattr(task, name)
            stage.run = clock.time(name, stage.run)
        start = time.process_time()
        result = task.run(pair.science, pair.template)
        runs.append(
            {key: used["cpu"] for key, used in clock.times.items()} | {"task": time.process_time() - start}
        )
    return {key: min(run[key] for run in runs) for key in runs[0]}, result


def pixel_rows(args: argparse.Namespace, largest: Any) -> tuple[str, list[tuple[float, float]]]:
    """Return the time of the whole task for several sizes."""
    rows = []
    for side in sorted(args.sides):
        pair = largest if side == max(args.sides) else simulate(side)
        times, _ = subtract(pair, repeat=args.repeat)
        rows.append((side**2 / 1e6, times["task"]))
    return "whole task", rows


def star_rows(args: argparse.Namespace, pair: Any) -> tuple[str, list[tuple[float, float]]]:
    """Return the time of the subtract stage for several numbers of kernel stars."""
    rows = []
    for number in (50, 100, 200, 400):
        times, result = subtract(
            pair, repeat=args.repeat, subtract__maxKernelSources=number, subtract__kernel__nStarPerCell=-1
        )
        rows.append((float(len(result.subtractRes.kernelSources)), times["subtract"]))
    return "subtract stage", rows


def detection_rows(args: argparse.Namespace, pair: Any) -> tuple[str, list[tuple[float, float]]]:
    """Return the time to deblend and measure for several thresholds of the detection."""
    rows = []
    for threshold in (5.0, 4.0, 3.5, 3.2):
        times, result = subtract(pair, repeat=args.repeat, detection__thresholdValue=threshold)
        rows.append((float(len(result.diaSources)), times["deblend"] + times["measurement"]))
    return "deblend and measure", rows


def print_table(heading: str, what: str, rows: list[tuple[float, float]]) -> None:
    """Print numbers, seconds and seconds for each."""
    print(f"\n{heading:>20s}{what + ', CPU s':>30s}{'per':>12s}")
    for number, seconds in rows:
        print(f"{number:20.3g}{seconds:30.2f}{seconds / max(number, 1e-9):12.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
