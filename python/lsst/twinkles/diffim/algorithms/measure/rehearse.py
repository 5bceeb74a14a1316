"""Run the fits to sources once on next to nothing, so that their loops are compiled.

``python -m lsst.twinkles.diffim.algorithms.measure.rehearse`` does it in a process of its own.
"""

from __future__ import annotations

__all__ = ("rehearse",)

from typing import Any

import numpy as np

from ..psf_grid import PsfGrid
from .dipole import fit_dipole_sources
from .psf_fit import fit_point_sources, measure_forced_fluxes
from .shapes import measure_adaptive_moments, measure_aperture_fluxes
from .split import split_sources
from .trail import fit_trail_sources

_SIDE = 64
_HALF = 12
_SIGMA = 2.0
_FWHM = 2.355 * _SIGMA


def rehearse() -> None:
    """Fit two sources in every way there is, what takes longest to compile first."""
    psf = PsfGrid.constant(_draw_source(2 * _HALF + 1, _HALF, _HALF))
    # The first is elongated, else no trail would be tried.
    sources = ((20.0, 24.0, 300.0), (23.0, 25.0, 300.0), (44.0, 40.0, -300.0))
    parts = [flux * _draw_source(_SIDE, x, y) for x, y, flux in sources]
    image = np.sum(parts, axis=0).astype(np.float32)
    weight = np.ones_like(image)
    x, y = np.array([20.0, 44.0]), np.array([24.0, 40.0])
    blends: dict[str, Any] = {"link": 2.0 * _FWHM, "most": 12}
    steps: dict[str, Any] = {"half": _HALF, "iterations": 10}
    fits = fit_point_sources(image, weight, psf, x=x, y=y, max_shift=_FWHM, rounds=2, **blends, **steps)
    fit_dipole_sources(
        (image,) * 3, (weight,) * 3, (psf,) * 3, fits, np.ones(2, dtype=bool),
        fwhm=_FWHM, partner_radius=_FWHM, max_separation=_FWHM, relative_weight=1.0, **steps,
    )  # fmt: skip
    moments = measure_adaptive_moments(image, weight, psf, fits, sigma=_SIGMA, max_shift=_FWHM, **steps)
    fit_trail_sources(
        image, weight, psf, fits, moments, min_significance=-1e9, min_length=0.0, max_length=_HALF, **steps
    )
    split_sources(
        image, weight, psf, fits, fwhm=_FWHM, min_snr=0.0, min_gain=0.0, min_separation=0.0,
        max_separation=_FWHM, min_flux_ratio=0.1, model_error=0.0, **blends, **steps,
    )  # fmt: skip
    measure_forced_fluxes(image, weight, psf, x=x, y=y, half=_HALF)
    measure_aperture_fluxes(image, weight, psf, fits, radius=5.0)


def _draw_source(side: int, x: float, y: float) -> np.ndarray:
    """Return a Gaussian of unit sum, ``(side, side)``."""
    along_x, along_y = (np.exp(-0.5 * ((np.arange(side) - at) / _SIGMA) ** 2) for at in (x, y))
    image = np.outer(along_y, along_x)
    return image / image.sum()


if __name__ == "__main__":
    rehearse()
