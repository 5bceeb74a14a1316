#!/usr/bin/env python
"""The catalogue beside the ideal matched filter, and close pairs, on simulated pairs of many seeds.

The ideal is the proper difference of noise and transients alone, with the true PSFs and variances, searched
at the same threshold; both are compared with the same truth: planted transients without another change within
12 pixels, where the difference is not masked. Close pairs are two sources of a signal-to-noise ratio of 20
each, 0.8 FWHM apart, in the science image.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np
import quality
from planted import add_stars, nanojansky
from quality import FLAGS

UNUSABLE = (*quality.UNUSABLE, "STREAK")
THRESHOLD = 5.0
# Signal-to-noise ratio of the images of a quasar, their distance in FWHM of the difference, and how many.
QUASAR, APART, QUASARS = 20.0, 0.8, 60


def main() -> int:
    """Count and print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["std", "rev", "eq"], help="pairs (std rev eq)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[1, 2, 3, 4], help="seeds of the fields (1 to 4)"
    )
    parser.add_argument("--size", type=int, default=1024, help="pixels on a side (1024)")
    parser.add_argument("--kernel", default="zogy", choices=["zogy", "AL"], help="method (zogy)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    titles = ("pair", "code", "changes", "found", "complete", "false", "false a Mpx")
    print(" ".join(f"{title:>11}" for title in titles))
    for case in args.cases:
        counts = np.sum([count_pair(case, seed, args.size, args.kernel) for seed in args.seeds], axis=0)
        for code, (expected, found, false, area) in zip(("ideal", "ours"), counts, strict=True):
            share, density = f"{100 * found / expected:.1f} %", f"{1e6 * false / area:.2f}"
            cells = (case, code, f"{expected:.0f}", f"{found:.0f}", share, f"{false:.0f}", density)
            print(" ".join(f"{cell:>11}" for cell in cells), flush=True)
    parts = [measure_quasars(seed, args.size, args.kernel) for seed in args.seeds]
    number, resolved = np.sum([part[0] for part in parts], axis=0)
    error = np.concatenate([part[1] for part in parts])
    print(f"\nQuasars of two images {APART} FWHM apart, S/N {QUASAR:.0f} each: {number}")
    print(f"found as two sources: {resolved} ({100 * resolved / number:.1f} %)")
    bias = f"{error.mean():+.3f} ({error.std() / len(error) ** 0.5:.3f})"
    print(f"their fluxes over the true ones, less 1: {bias}")
    return 0


def count_pair(case: str, seed: int, size: int, kernel: str) -> np.ndarray:
    """Return changes, those found, false detections and pixels: ideal and catalogue, ``(2, 4)``."""
    from lsst.twinkles.diffim.adapters.masks import bad_pixels
    from lsst.twinkles.diffim.report.summary import compare_with_truth
    from lsst.twinkles.diffim.simulation.pairs import simulate_pair

    pair = simulate_pair(case, seed=seed, nx=size, ny=size)
    result = make_task(kernel).run(pair.science, pair.template, selectSources=pair.stars)
    masked = bad_pixels(result.subtractedExposure.mask, UNUSABLE)
    column, row = (np.round(np.asarray(pair.truth[name])).astype(int) for name in ("x", "y"))
    truth = pair.truth[~masked[row, column]]
    counts = []
    for sources in (detect_ideally(pair, masked), result.diaSources):
        good = ~np.any([np.asarray(sources[name]) for name in FLAGS], axis=0)
        compared = compare_with_truth(sources[good], truth, threshold=THRESHOLD)
        # The best difference is free of the field's own variables; of two that are close it has one peak.
        planted = compared.alone & (np.asarray(truth["kind"]) == "transient")
        expected = planted & (np.asarray(truth["snr"]) >= THRESHOLD)
        found = np.count_nonzero(expected & compared.found)
        counts.append((np.count_nonzero(expected), found, compared.n_false, np.count_nonzero(~masked)))
    return np.array(counts)


def make_task(kernel: str) -> Any:
    """Return the task with a method of subtraction."""
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    config = TwinklesImageDifferenceTask.ConfigClass()
    config.subtract.kernel = kernel
    return TwinklesImageDifferenceTask(config=config)


def detect_ideally(pair: Any, masked: np.ndarray) -> Any:
    """Return the peaks of the matched filter on the best difference that can be made of a pair."""
    from astropy.table import Table

    from lsst.twinkles.diffim.algorithms.detect.peaks import find_peaks, suppress_rings
    from lsst.twinkles.diffim.algorithms.detect.score import significance_image
    from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
    from lsst.twinkles.diffim.simulation.oracle import proper_difference, proper_variance

    difference, stamp = proper_difference(pair)
    score = significance_image(
        difference.astype(np.float32),
        proper_variance(pair).astype(np.float32),
        masked,
        PsfGrid.constant(stamp),
        min_coverage=0.5,
        side=400,
    )
    peaks = suppress_rings(
        find_peaks(score, threshold=THRESHOLD, radius=2), stamp, threshold=THRESHOLD, model_error=0.1
    )
    good = peaks.take(np.flatnonzero(~masked[peaks.y, peaks.x]))
    one = np.ones(len(good.x))
    table = Table({"x": good.x, "y": good.y, "isNegative": good.significance < 0})
    table["psfFlux"] = table["psfFluxErr"] = one
    for name in FLAGS:
        table[name] = one > 1.0
    return table


def measure_quasars(seed: int, size: int, kernel: str) -> tuple[tuple[int, int], np.ndarray]:
    """Return quasars and those found as two sources, and the relative errors of the fluxes of the latter."""
    from lsst.twinkles.diffim.adapters.psfs import psf_fwhm, sample_psf
    from lsst.twinkles.diffim.simulation.pairs import simulate_pair

    # Places for them: those of transients of next to no flux.
    pair = simulate_pair(
        "std", seed=seed, nx=size, ny=size, n_transients=QUASARS, signal_to_noise=(1e-3, 2e-3)
    )
    science, rng = pair.science.copy(), np.random.default_rng([seed, 7])
    psf = sample_psf(science.psf, science.bbox, grid=8)
    places = pair.truth[np.asarray(pair.truth["kind"]) == "transient"]
    flux = QUASAR * np.asarray(places["flux_error"])
    angle, half = rng.uniform(0.0, 2.0 * np.pi, len(places)), 0.5 * APART * psf_fwhm(psf)
    images = []
    for sign in (1, -1):
        x, y = (np.asarray(places[k]) + sign * half * f(angle) for k, f in (("x", np.cos), ("y", np.sin)))
        add_stars(science, psf, x, y, flux, rng)
        images.append(np.column_stack([x, y]))
    sources = make_task(kernel).run(science, pair.template, selectSources=pair.stars).diaSources
    good = ~np.any([np.asarray(sources[name]) for name in FLAGS], axis=0) & ~np.asarray(sources["isNegative"])
    place = np.column_stack([sources["x"], sources["y"]]).astype(float)[good]
    measured = np.asarray(sources["psfFlux"], float)[good] / nanojansky(science)
    distance = [np.hypot(*(image[:, None] - place).transpose(2, 0, 1)) for image in images]
    nearest = [d.argmin(axis=1) for d in distance]
    seen = np.min([d.min(axis=1) for d in distance], axis=0) < 2.0 * half  # the place is not masked
    two = seen & (nearest[0] != nearest[1]) & (np.max([d.min(axis=1) for d in distance], axis=0) < half)
    errors = [measured[near[two]] / flux[two] - 1.0 for near in nearest]
    return (np.count_nonzero(seen), np.count_nonzero(two)), np.concatenate(errors)


if __name__ == "__main__":
    sys.exit(main())
