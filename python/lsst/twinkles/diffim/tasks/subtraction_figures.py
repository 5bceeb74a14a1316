"""Figures that tell how good a subtraction is."""

from __future__ import annotations

__all__ = (
    "footprint_ratios",
    "limiting_magnitude",
    "make_kernel_source_table",
    "nanojansky_scale",
    "predicted_depth",
    "registration_figures",
)

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from ..adapters.masks import bad_pixels
from ..adapters.psfs import sample_psf
from ..algorithms.match.match import MatchInput, MatchResult
from ..algorithms.match.prefilter import cut_stamps
from ..algorithms.match.star_offsets import kernel_centroids, measure_star_offsets
from ..algorithms.psf_grid import PsfGrid
from ..algorithms.select import depth

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage

    from .engines import Exposures, Subtraction

_ZERO_POINT_NJY = 31.4  # AB magnitude of 1 nJy


def nanojansky_scale(exposure: VisitImage) -> float | None:
    """Return nJy per pixel unit at the centre of an exposure, `None` if it is not calibrated."""
    import astropy.units as u

    if exposure.unit.is_equivalent(u.nJy):
        return float(exposure.unit.to(u.nJy))
    scaling = exposure.photometric_scaling
    if scaling is None or scaling.unit is None:
        return None
    box = exposure.bbox
    value = float(np.asarray(scaling(x=box.x.center, y=box.y.center)))
    unit = exposure.unit * scaling.unit
    return value * float(unit.to(u.nJy)) if unit.is_equivalent(u.nJy) else None


def limiting_magnitude(
    science: VisitImage, science_data: MatchInput, template_data: MatchInput, flux_scale: float
) -> dict[str, float]:
    """Return the AB magnitudes of point sources at 5 sigma.

    Parameters
    ----------
    science : `lsst.images.VisitImage`
        Exposure whose calibration counts; an empty dictionary is returned if it has none.
    science_data, template_data : `~lsst.twinkles.diffim.algorithms.match.match.MatchInput`
        Noise and PSFs.
    flux_scale : `float`
        Science counts over template counts.

    Returns
    -------
    magnitudes : `dict` [`str`, `float`]
        ``scienceLimitingMagnitude``, ``templateLimitingMagnitude`` and
        ``diffimLimitingMagnitude``, for which the flux limits are added in quadrature.
    """
    scale = nanojansky_scale(science)
    if scale is None:
        return {}
    limits = {
        "science": _flux_error(science_data.psf, science_data.sky.median),
        "template": flux_scale * _flux_error(template_data.psf, template_data.sky.median),
    }
    limits["diffim"] = float(np.hypot(limits["science"], limits["template"]))
    return {
        f"{name}LimitingMagnitude": float(_ZERO_POINT_NJY - 2.5 * np.log10(5.0 * error * scale))
        for name, error in limits.items()
    }


def predicted_depth(
    science: VisitImage, science_data: MatchInput, template_data: MatchInput, flux_scale: float
) -> float | None:
    """Return the AB magnitude of a point source at 5 sigma in the best possible difference.

    Unlike ``diffimLimitingMagnitude`` of `limiting_magnitude` it is what the white difference reaches, and
    what the choice of a template goes by.

    Parameters
    ----------
    science, science_data, template_data, flux_scale
        As for `limiting_magnitude`.

    Returns
    -------
    magnitude : `float` or `None`
        `None` if the science exposure is not calibrated.
    """
    scale = nanojansky_scale(science)
    if scale is None:
        return None
    error = depth.difference_flux_error(
        depth.psf_power(science_data.psf),
        depth.psf_power(template_data.psf),
        science_data.sky.median,
        flux_scale**2 * template_data.sky.median,
    )
    return float(depth.limiting_magnitude(scale * error))


def _flux_error(psf: PsfGrid, variance: float) -> float:
    """Return the standard error of an optimal PSF flux on blank sky."""
    return float(np.sqrt(variance / (psf.mean() ** 2).sum()))


def footprint_ratios(
    science: np.ndarray, difference: np.ndarray, bad: np.ndarray, *, x: np.ndarray, y: np.ndarray, half: int
) -> dict[str, float]:
    """Return how much of the stars is left in a difference.

    Parameters
    ----------
    science, difference : `numpy.ndarray`, ``(Ny, Nx)``
        Sky-subtracted science image and difference.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels left out.
    x, y : `numpy.ndarray`, ``(N,)``
        Central pixels of stars.
    half : `int`
        Half side of the squares that are looked at.

    Returns
    -------
    ratios : `dict` [`str`, `float`]
        ``differenceFootprintRatioMean`` and ``Stdev``: over the stars, mean ``|difference|`` in excess of
        that of blank sky over mean ``|science|``; ``differenceFootprintSkyRatioMean`` and ``Stdev``: mean
        ``|difference|`` over mean ``|science|`` in squares between the stars.
    """
    rng = np.random.default_rng(0)
    blank_x = rng.integers(half, max(half + 1, science.shape[1] - half), 200)
    blank_y = rng.integers(half, max(half + 1, science.shape[0] - half), 200)
    near = np.abs(blank_x[:, None] - x).astype(float) + np.abs(blank_y[:, None] - y) if len(x) else None
    if near is not None and (near.min(axis=1) > 4 * half).sum() >= 10:
        apart = near.min(axis=1) > 4 * half
        blank_x, blank_y = blank_x[apart], blank_y[apart]
    sky_d = _mean_absolute(difference, bad, blank_x, blank_y, half)
    sky_s = _mean_absolute(science, bad, blank_x, blank_y, half)
    star_d = _mean_absolute(difference, bad, x, y, half)
    star_s = _mean_absolute(science, bad, x, y, half)
    level = float(np.nanmedian(sky_d)) if np.isfinite(sky_d).any() else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        stars, sky = np.abs(star_d - level) / star_s, sky_d / sky_s
    return _describe("differenceFootprintRatio", stars) | _describe("differenceFootprintSkyRatio", sky)


def _mean_absolute(image: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    good = ~cut_stamps(bad, x, y, half)
    total = (np.abs(cut_stamps(image, x, y, half)) * good).sum(axis=(1, 2))
    number = good.sum(axis=(1, 2))
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _describe(name: str, values: np.ndarray) -> dict[str, float]:
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return {}
    return {f"{name}Mean": float(values.mean()), f"{name}Stdev": float(values.std())}


def registration_figures(
    exposures: Exposures, match: MatchResult, result: Subtraction, difference: DifferenceImage
) -> dict[str, float | list[float]]:
    """Return the registration errors that the kernel absorbed, and the scatter of what it could not.

    Returns
    -------
    figures : `dict`
        ``registrationOffset`` (mean shift by the kernel along x and y, pixels), ``registrationOffsetMax``,
        and, of a white difference, in which the errors of single stars are known, ``astrometricScatter``.
    """
    ny, nx = result.difference.shape
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, nx - 1, 5), np.linspace(0, ny - 1, 5)))
    dx, dy = kernel_centroids(match.solution.kernel_at(x, y))
    figures: dict[str, float | list[float]] = {
        "registrationOffset": [float(np.mean(dx)), float(np.mean(dy))],
        "registrationOffsetMax": float(np.hypot(dx, dy).max()),
    }
    if not result.whitened:
        return figures
    used, stars, science = match.solution.used, match.candidates, exposures.prepared_science.data
    offsets = measure_star_offsets(
        science.image,
        result.difference,
        result.variance,
        bad_pixels(difference.mask, ["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"]),
        psf_image=science.psf,
        psf_difference=sample_psf(result.psf, exposures.science.bbox, grid=3),
        x=stars.x[used],
        y=stars.y[used],
        half=max(4, round(1.5 * exposures.widest)),
    )
    return figures | {"astrometricScatter": offsets.scatter()}


def make_kernel_source_table(match: MatchResult, science: VisitImage) -> Table:
    """Return what became of each star."""
    solution = match.solution
    return Table(
        {
            "x": match.candidates.x + science.bbox.x.start,
            "y": match.candidates.y + science.bbox.y.start,
            "signalToNoise": solution.signal_to_noise,
            "chi2": solution.chi2,
            "fluxResidual": solution.flux_residual,
            "used": solution.used,
        },
        descriptions={
            "x": "Central pixel",
            "y": "Central pixel",
            "signalToNoise": "Of the matched profile",
            "chi2": "Reduced chi square of the stamp",
            "fluxResidual": "Residual flux over its error",
            "used": "Kept after clipping",
        },
        units={"x": "pix", "y": "pix"},
    )
