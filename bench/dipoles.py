#!/usr/bin/env python
"""Dipoles of a poor registration on differences of the engine: how many are called so, and transients.

A registration error that is smooth over the image is followed by the kernel, and leaves nothing. Here every
static star of the template is moved by 0.1 pixels in a direction of its own, as by refraction or proper
motion, and detection does not allow for it (doAstrometricNoise off).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

# Pixels within which a detection is that of a source, and from which on it has nothing to do with it.
NEAR, APART = 3.0, 20.0
SHIFT = 0.1
FAULTS = ("pixelFlags", "pixelFlags_edge", "psfFlux_flag")


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4], help="seeds of the fields")
    parser.add_argument("--size", type=int, default=1024, help="pixels on a side (1024)")
    parser.add_argument("--kernel", default="zogy", choices=["zogy", "AL"], help="method (zogy)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    counts = np.array([count_pair(seed, args.size, args.kernel) for seed in args.seeds])
    titles = ("of moved stars", "called dipoles", "of transients", "called dipoles")
    print(f"{'seed':>6} " + " ".join(f"{title:>15}" for title in titles))
    for seed, row in zip([*args.seeds, "all"], [*counts, counts.sum(axis=0)], strict=True):
        shares = [f"{row[k + 1]:>6} ({100 * row[k + 1] / max(row[k], 1):4.1f} %)" for k in (0, 2)]
        print(f"{seed:>6} {row[0]:>15} {shares[0]:>15} {row[2]:>15} {shares[1]:>15}", flush=True)
    return 0


def count_pair(seed: int, size: int, kernel: str) -> tuple[int, int, int, int]:
    """Return detections of static sources, those called dipoles, and the same of transients."""
    sources, moved, changed = subtract_pair(seed, size, kernel)
    place = np.column_stack([sources["x"], sources["y"]]).astype(float)
    to_moved, to_changed = (cKDTree(places).query(place)[0] for places in (moved, changed))
    good = ~np.any([np.asarray(sources[name]) for name in FAULTS], axis=0)
    static, transient = good & (to_moved <= NEAR) & (to_changed > APART), good & (to_changed <= NEAR)
    dipole = np.asarray(sources["isDipole"])
    return static.sum(), (static & dipole).sum(), transient.sum(), (transient & dipole).sum()


def subtract_pair(seed: int, size: int, kernel: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return the catalogue of a simulated pair, and the places of what moved and of what changed."""
    from lsst.twinkles.diffim.simulation.pairs import simulate_pair
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    pair = simulate_pair("exact", seed=seed, nx=size, ny=size, n_transients=size**2 // 60**2)
    template, moved = move_stars(pair, pair.stars, SHIFT, np.random.default_rng([seed, 3]))
    config = TwinklesImageDifferenceTask.ConfigClass()
    config.subtract.kernel = kernel
    config.detection.doAstrometricNoise = False
    result = TwinklesImageDifferenceTask(config=config).run(pair.science, template, selectSources=pair.stars)
    truth = pair.truth[np.asarray(pair.truth["snr"]) > 1.0]
    return (
        result.diaSources,
        np.column_stack([moved["x"], moved["y"]]),
        np.column_stack([truth["x"], truth["y"]]),
    )


def move_stars(pair: Any, stars: Any, shift: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Return the template with some of its static stars moved in directions of their own, and these stars.

    The latter with ``dx``, ``dy``, by how much they moved; ``shift`` is their length, one or one for each.
    """
    from lsst.twinkles.diffim.adapters.psfs import sample_psf
    from lsst.twinkles.diffim.algorithms.fourier import shift_stamps

    template = pair.template.copy()
    image = template.image.array
    psf = sample_psf(template.psf, template.bbox, grid=8)
    half, (ny, nx) = psf.size // 2, image.shape
    angle, shift = rng.uniform(0.0, 2.0 * np.pi, len(stars)), np.broadcast_to(shift, len(stars))
    stars = stars.copy()
    stars["dx"], stars["dy"] = shift * np.cos(angle), shift * np.sin(angle)
    x, y = stars["x"], stars["y"]
    stars = stars[(x > half + 1) & (x < nx - half - 2) & (y > half + 1) & (y < ny - half - 2)]
    x, y, dx, dy = (np.asarray(stars[name], float) for name in ("x", "y", "dx", "dy"))
    ix, iy = np.round(x).astype(int), np.round(y).astype(int)
    stamps = psf.evaluate(x=x, y=y)
    before = shift_stamps(stamps, dx=x - ix, dy=y - iy)
    after = shift_stamps(stamps, dx=x - ix + dx, dy=y - iy + dy)
    flux = np.asarray(stars["flux"], float) * pair.scale
    for i, j, change in zip(ix, iy, flux[:, None, None] * (after - before), strict=True):
        image[j - half : j + half + 1, i - half : i + half + 1] += change
    return template, stars


if __name__ == "__main__":
    sys.exit(main())
