#!/usr/bin/env python
"""Seconds to detect, deblend and measure many sources, on white noise with sources of known place.

A row for each stage and number of sources: wall clock, and CPU of all threads (compiled code warm).
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from typing import Any

import numpy as np

SIDE = 4000
FWHM = 4.5
NOISE = 10.0


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--numbers", type=int, nargs="+", default=[1000, 10000], help="sources")
    parser.add_argument("--pairs", type=float, default=0.1, help="share of them that has a close neighbour")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    run(*make_images(100, args.pairs, side=600))  # compiles, or reads what is compiled
    print(
        f"{'sources':>8} {'found':>6}  " + "  ".join(f"{name:>20}" for name in (*STAGES, "detect to measure"))
    )
    for number in args.numbers:
        times, found = run(*make_images(number, args.pairs, side=SIDE))
        total = [sum(column) for column in zip(*times.values(), strict=True)]
        cells = [f"{wall:7.2f} s {cpu:7.2f} CPU" for wall, cpu in (*times.values(), total)]
        print(f"{number:>8} {found:>6}  " + "  ".join(f"{cell:>20}" for cell in cells), flush=True)
    return 0


STAGES = ("detect", "deblend", "measure")


def run(difference: Any, science: Any, matched: Any) -> tuple[dict[str, tuple[float, float]], int]:
    """Return wall and CPU seconds by stage, and the number of sources."""
    from lsst.twinkles.diffim.tasks.deblend import DeblendTask
    from lsst.twinkles.diffim.tasks.detection import DetectionTask
    from lsst.twinkles.diffim.tasks.measurement import MeasurementTask

    times = {}
    clock = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter(), time.process_time()
        times[name] = (now[0] - clock[0], now[1] - clock[1])
        clock = now

    sources = DetectionTask().run(difference).sources
    lap("detect")
    sources = DeblendTask().run(difference, sources).sources
    lap("deblend")
    table = MeasurementTask().run(difference, science, matched, sources).diaSources
    lap("measure")
    return times, len(table)


def make_images(number: int, pairs: float, *, side: int) -> tuple[Any, Any, Any]:
    """Return difference, science image and template with sources of signal-to-noise 6 to 100."""
    import astropy.units as u
    from astro_metadata_translator import ObservationInfo
    from astropy.wcs import WCS
    from lsst.images import Box, DetectorFrame, Image, Mask, SkyProjection, VisitImage
    from lsst.images.psfs import GaussianPointSpreadFunction

    from lsst.twinkles.diffim.adapters.camera import make_detector
    from lsst.twinkles.diffim.adapters.masks import difference_mask_schema, visit_mask_schema
    from lsst.twinkles.diffim.tasks.difference_image import make_difference_image, make_matched_image

    rng = np.random.default_rng(number)
    sigma = FWHM / 2.3548
    error = np.sqrt(4 * np.pi) * sigma * NOISE
    x, y = rng.uniform(20, side - 20, (2, number))
    n = int(pairs * number / 2)
    angle = rng.uniform(0, 2 * np.pi, n)
    x[:n], y[:n] = x[n : 2 * n] + FWHM * np.cos(angle), y[n : 2 * n] + FWHM * np.sin(angle)
    flux = error * 10 ** rng.uniform(np.log10(6), 2, number) * rng.choice([-1, 1], number)
    change = rng.normal(0, NOISE, (side, side)).astype(np.float32)
    offset = np.arange(-15, 16)
    for a, b, f in zip(x, y, flux, strict=True):
        i, j = round(a), round(b)
        if not (15 <= i < side - 15 and 15 <= j < side - 15):
            continue
        v, w = (np.exp(-((offset + c) ** 2) / (2 * sigma**2)) for c in (j - b, i - a))
        change[j - 15 : j + 16, i - 15 : i + 16] += f / (2 * np.pi * sigma**2) * v[:, None] * w
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = (
        ["RA---TAN", "DEC--TAN"],
        [53.0, -27.4],
        [side / 2, side / 2],
    )
    wcs.wcs.cd = [[-5.6e-5, 0.0], [0.0, 5.6e-5]]
    box = Box.from_shape((side, side))
    frame = DetectorFrame(instrument="TwinklesCam", visit=1, detector=0, bbox=box)
    variance = np.full((side, side), NOISE**2, np.float32)
    science = VisitImage(
        Image(change, bbox=box, unit=u.electron),
        mask=Mask(schema=visit_mask_schema(), bbox=box),
        variance=Image(variance, bbox=box, unit=u.electron**2),
        sky_projection=SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=None),
        obs_info=ObservationInfo(instrument="TwinklesCam", visit_id=1, detector_num=0, physical_filter="r"),
        psf=GaussianPointSpreadFunction(sigma, bounds=box, stamp_size=41),
        detector=make_detector(1, bbox=box),
        band="r",
    )
    planes = {
        "mask": Mask(schema=difference_mask_schema(), bbox=box), "psf": science.psf, "variance": variance,
    }  # fmt: skip
    difference = make_difference_image(science, image=change, kernel=None, **planes)
    template = rng.normal(0, NOISE, (side, side)).astype(np.float32)
    return (
        difference,
        science,
        make_matched_image(science, science, image=template, convolved=False, **planes),
    )


if __name__ == "__main__":
    sys.exit(main())
