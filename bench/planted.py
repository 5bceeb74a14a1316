"""Stars that benches plant into exposures, and what they need to know of exposures and detections."""

from __future__ import annotations

from typing import Any

import numpy as np


def add_stars(
    exposure: Any, psf: Any, x: np.ndarray, y: np.ndarray, flux: np.ndarray, rng: np.random.Generator
) -> None:
    """Add stars of some electrons, with photon noise, to an exposure."""
    from lsst.twinkles.diffim.algorithms.fourier import shift_stamps

    ix, iy = np.round(x).astype(int), np.round(y).astype(int)
    stamps = np.clip(shift_stamps(psf.evaluate(x=x, y=y), dx=x - ix, dy=y - iy), 0.0, None)
    for i, j, star in zip(ix, iy, stamps * flux[:, None, None], strict=True):
        add_star(exposure, i, j, star, rng)


def add_whole_stars(
    exposure: Any, psf: Any, x: np.ndarray, y: np.ndarray, flux: np.ndarray, rng: np.random.Generator
) -> None:
    """Add stars with the wings beyond the stamps of PSF models; ``psf`` is a `VaryingPsf`, of a visit."""
    from lsst.twinkles.diffim.adapters.camera import PIXEL_SCALE_ARCSEC

    size = 121
    for a, b, electrons in zip(x, y, flux, strict=True):
        i, j = round(float(a)), round(float(b))
        star = psf.profile(x=float(a), y=float(b)).drawImage(
            nx=size, ny=size, scale=PIXEL_SCALE_ARCSEC, offset=(a - i, b - j), dtype=np.float64
        )
        add_star(exposure, i, j, np.clip(star.array, 0.0, None) * electrons, rng)


def add_star(exposure: Any, i: int, j: int, star: np.ndarray, rng: np.random.Generator) -> None:
    """Add the electrons of a star around a pixel to an exposure, as far as they lie on it."""
    half, (ny, nx) = len(star) // 2, exposure.image.array.shape
    top, left = max(0, half - j), max(0, half - i)
    part = star[top : half + ny - j, left : half + nx - i]
    where = np.s_[
        j - half + top : j - half + top + part.shape[0], i - half + left : i - half + left + part.shape[1]
    ]
    exposure.image.array[where] += part + np.sqrt(part) * rng.standard_normal(part.shape)
    exposure.variance.array[where] += part


def nanojansky(exposure: Any) -> float:
    """Return nanojansky by pixel unit."""
    scaling = exposure.photometric_scaling
    box = exposure.bbox
    return float(np.asarray(scaling(x=np.array([box.x.size / 2]), y=np.array([box.y.size / 2])))[0])


def as_detections(x: np.ndarray, y: np.ndarray, flux: np.ndarray) -> Any:
    """Return a table as a detection gives it."""
    from astropy.table import Table

    n = len(x)
    return Table(
        {
            "x": x, "y": y, "significance": np.sign(flux), "isNegative": flux < 0,
            "footprint": np.arange(1, n + 1), "nPeaks": np.ones(n, int), "isMerged": np.zeros(n, bool),
            "footprintArea": np.full(n, 30), "bboxSize": np.full(n, 6),
        }
    )  # fmt: skip
