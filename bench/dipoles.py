#!/usr/bin/env python
"""Dipoles of a poor registration on real differences: how many are called so, and how many transients.

Pairs are simulated whose static sources are displaced at random by 0.1 pixels along each axis, subtracted as the
command does, and detected as if nobody knew of the displacements (doAstrometricNoise off).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np

# A detection within the first distance in pixels is that of a true change; within the second it may be of both.
NEAR, APART = 3.0, 20.0
FAULTS = ("pixelFlags", "pixelFlags_edge", "psfFlux_flag")


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the fields")
    parser.add_argument("--size", type=int, default=1024, help="pixels on a side (1024)")
    parser.add_argument("--kernel", default="zogy", choices=["zogy", "AL"], help="method (zogy)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    counts = np.array([count_pair(seed, args.size, args.kernel) for seed in args.seeds])
    print(f"{'seed':>6} {'of static sources':>18} {'called dipoles':>15} {'transients':>11} {'called dipoles':>15}")
    for seed, row in zip([*args.seeds, "all"], [*counts, counts.sum(axis=0)], strict=True):
        shares = [f"{row[k + 1]:>6} ({100 * row[k + 1] / max(row[k], 1):4.1f} %)" for k in (0, 2)]
        print(f"{seed:>6} {row[0]:>18} {shares[0]:>15} {row[2]:>11} {shares[1]:>15}")
    return 0


def count_pair(seed: int, size: int, kernel: str) -> tuple[int, int, int, int]:
    """Return detections of static sources, those called dipoles, and the same of transients."""
    sources, truth = subtract_pair(seed, size, kernel)
    distance = np.hypot(
        np.asarray(sources["x"], float)[:, None] - np.asarray(truth["x"]),
        np.asarray(sources["y"], float)[:, None] - np.asarray(truth["y"]),
    ).min(axis=1)
    good = ~np.any([np.asarray(sources[name]) for name in FAULTS], axis=0)
    static, changed = good & (distance > APART), good & (distance <= NEAR)
    dipole = np.asarray(sources["isDipole"])
    return static.sum(), (static & dipole).sum(), changed.sum(), (changed & dipole).sum()


def subtract_pair(seed: int, size: int, kernel: str) -> tuple[Any, Any]:
    """Return the catalogue of a simulated pair, and what changed."""
    from lsst.twinkles.diffim.simulation.pairs import simulate_pair
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    pair = simulate_pair("shift", seed=seed, nx=size, ny=size, n_transients=size**2 // 60**2)
    config = TwinklesImageDifferenceTask.ConfigClass()
    config.subtract.kernel = kernel
    config.detection.doAstrometricNoise = False
    result = TwinklesImageDifferenceTask(config=config).run(
        pair.science, pair.template, selectSources=pair.stars
    )
    return result.diaSources, pair.truth[np.asarray(pair.truth["snr"]) > 1.0]


if __name__ == "__main__":
    sys.exit(main())
