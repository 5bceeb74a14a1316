"""How good a difference of a simulated pair is."""

from __future__ import annotations

__all__ = ("DifferenceScore", "score_difference")

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.signal import fftconvolve

from ..algorithms.psf_grid import PsfGrid
from ..algorithms.robust import robust_scatter
from .oracle import static_light
from .pairs import SimulatedPair

_RIM = 24
_MASK_GROWTH = 10
_SATURATION_GROWTH = 25
_CLIP = 6.0
_PHOTOMETRY_HALF = 12


@dataclass(frozen=True)
class DifferenceScore:
    """Figures of merit of one difference; what a perfect one has is in brackets.

    Attributes
    ----------
    sigma : `float`
        Scatter of blank sky over the true noise (1 for whitened noise).
    claimed : `float`
        Scatter of blank sky over the claimed noise (1).
    matched_filter : `float`
        Scatter of PSF fluxes in blank sky over their claimed error (1).
    ac1, ac2 : `float`
        Autocorrelation of blank sky at lags of 1 and 2 pixels (0).
    star : `float`
        Root mean square of the residual PSF fluxes of bright static stars over their errors (1).
    bias : `float`
        Median error of the flux of transients of S/N > 10, in percent (0).
    scatter : `float`
        Scatter of transient fluxes over the best possible error, S/N > 5 (1).
    pull : `float`
        The same over the claimed error (1).
    completeness : `float`
        Fraction of transients of S/N >= 5 that peak above 5 sigma (about 0.97).
    false : `int`
        Peaks above 5 sigma of either sign that nothing explains (0 to 2 a million pixels).
    masked : `float`
        Percent of the pixels that the inputs had and the difference masks (0).
    n_transients, n_stars : `int`
        How many went into these figures.
    transients : `list` [`tuple`]
        Measured flux (NaN for none), true flux within the PSF stamps and best possible error of each.
    """

    sigma: float
    claimed: float
    matched_filter: float
    ac1: float
    ac2: float
    star: float
    bias: float
    scatter: float
    pull: float
    completeness: float
    false: int
    masked: float
    n_transients: int
    n_stars: int
    transients: list[tuple[float, float, float]]


def score_difference(
    pair: SimulatedPair,
    *,
    difference: np.ndarray,
    variance: np.ndarray,
    masked: np.ndarray,
    psf: PsfGrid,
) -> DifferenceScore:
    """Score a difference against the truth.

    Parameters
    ----------
    pair : `SimulatedPair`
        What was subtracted.
    difference, variance : `numpy.ndarray`, ``(ny, nx)``
        Electrons of the science image, and their squares.
    masked : `numpy.ndarray`, ``(ny, nx)``, bool
        Pixels that the difference declares unusable.
    psf : `PsfGrid`
        PSF of the difference.

    Returns
    -------
    score : `DifferenceScore`
        The figures of merit.
    """
    areas = _find_areas(pair, masked | ~np.isfinite(difference) | ~(variance > 0))
    usable = ~areas.bad
    values = np.where(usable, difference, 0.0).astype(float)
    errors2 = np.where(usable, variance, np.inf).astype(float)
    true_noise = np.sqrt(pair.science_visit.true_variance + pair.template_visit.true_variance / pair.scale**2)
    normalised = values / true_noise
    level = float(np.median(normalised[areas.blank]))
    values = np.where(usable, values - level * true_noise, 0.0)
    blank = np.where(areas.blank, np.clip(values / true_noise, -_CLIP, _CLIP), np.nan)
    significance = _matched_filter(values, errors2, psf)
    filter_noise = robust_scatter(significance[areas.blank])
    transients, stars = _photometry(pair, values, errors2, psf)
    completeness, false = _detect(pair, significance / filter_noise, areas)
    return DifferenceScore(
        sigma=float(np.nanstd(blank)),
        claimed=float(np.std(np.clip((values / np.sqrt(errors2))[areas.blank], -_CLIP, _CLIP))),
        matched_filter=filter_noise,
        ac1=_autocorrelation(blank, 1),
        ac2=_autocorrelation(blank, 2),
        completeness=completeness,
        false=false,
        masked=100 * float(np.mean(masked[~areas.input_masked])),
        **transients,
        **stars,
    )


@dataclass(frozen=True)
class _Areas:
    """Where to look: boolean images ``(ny, nx)``."""

    input_masked: np.ndarray
    bad: np.ndarray
    blank: np.ndarray
    near_saturation: np.ndarray


def _find_areas(pair: SimulatedPair, masked: np.ndarray) -> _Areas:
    """Find blank sky, and what is not to be used."""
    exposures = (pair.science, pair.template)
    saturated = np.logical_or.reduce([exposure.mask.get("SATURATED") for exposure in exposures])
    input_masked = saturated | np.logical_or.reduce([exposure.mask.get("BAD") for exposure in exposures])
    grown = ndimage.binary_dilation(input_masked, iterations=_MASK_GROWTH)
    grown[:_RIM], grown[-_RIM:], grown[:, :_RIM], grown[:, -_RIM:] = True, True, True, True
    near_saturation = grown | ndimage.binary_dilation(saturated, iterations=_SATURATION_GROWTH)
    noise = np.sqrt(float(np.median(pair.science_visit.sky)))
    light = static_light(pair)
    source = (light[0] > 0.25 * noise) | (light[1] / pair.scale > 0.25 * noise)
    for x, y in zip(pair.truth["x"], pair.truth["y"], strict=True):
        source[max(0, int(y) - 20) : int(y) + 21, max(0, int(x) - 20) : int(x) + 21] = True
    blank = ~source & ~near_saturation & ~masked
    if np.count_nonzero(blank) < 1000:
        raise ValueError(f"Only {np.count_nonzero(blank)} pixels of blank sky are left; use a larger field.")
    return _Areas(input_masked=input_masked, bad=grown | masked, blank=blank, near_saturation=near_saturation)


def _autocorrelation(values: np.ndarray, lag: int) -> float:
    """Return the correlation of pixels some pixels apart, mean of x and y; NaN pixels are left out."""
    along_x = np.nanmean(values[:, :-lag] * values[:, lag:])
    along_y = np.nanmean(values[:-lag] * values[lag:])
    return float((along_x + along_y) / 2 / np.nanmean(values**2))


def _matched_filter(values: np.ndarray, errors2: np.ndarray, psf: PsfGrid) -> np.ndarray:
    """Return PSF flux over its error at every pixel, with the mean PSF."""
    stamp = psf.mean()
    half = min(_PHOTOMETRY_HALF, psf.size // 2)
    middle = psf.size // 2
    stamp = stamp[middle - half : middle + half + 1, middle - half : middle + half + 1]
    signal = fftconvolve(values / errors2, stamp[::-1, ::-1], mode="same")
    information = fftconvolve(1 / errors2, stamp[::-1, ::-1] ** 2, mode="same")
    return signal / np.sqrt(np.maximum(information, 1e-12 * information.max()))


def _photometry(
    pair: SimulatedPair, values: np.ndarray, errors2: np.ndarray, psf: PsfGrid
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure transients and static stars where they are known to be."""
    truth = pair.truth[pair.truth["kind"] == "transient"]
    flux, error = _fluxes(values, errors2, psf, x=truth["x"], y=truth["y"])
    # The PSF model of the science image knows nothing of the light beyond its stamps.
    enclosed = pair.science_visit.psf.enclosed()
    true, snr = enclosed * np.asarray(truth["difference_flux"]), np.asarray(truth["snr"])
    measured, bright = np.isfinite(flux) & (snr > 5), np.isfinite(flux) & (snr > 10)
    transients = dict(
        bias=100 * _median((flux / true - 1)[bright]),
        scatter=robust_scatter(((flux - true) / np.asarray(truth["flux_error"]))[measured]),
        pull=robust_scatter(((flux - true) / error)[measured]),
        n_transients=int(np.count_nonzero(measured)),
        transients=list(
            zip(flux.tolist(), true.tolist(), np.asarray(truth["flux_error"]).tolist(), strict=True)
        ),
    )
    bright_stars = pair.stars[np.asarray(pair.stars["flux"]) > 50 * np.median(truth["flux_error"])]
    flux, error = _fluxes(values, errors2, psf, x=bright_stars["x"], y=bright_stars["y"])
    residual = (flux / error)[np.isfinite(flux)]
    star = float(np.sqrt(np.mean(np.clip(residual, -50, 50) ** 2))) if len(residual) else float("nan")
    return transients, dict(star=star, n_stars=len(residual))


def _fluxes(
    values: np.ndarray, errors2: np.ndarray, psf: PsfGrid, *, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return PSF fluxes and claimed errors at positions; NaN where three tenths of the PSF are missing."""
    results = [
        _flux(values, errors2, psf.evaluate(x=float(xi), y=float(yi)), x=float(xi), y=float(yi))
        for xi, yi in zip(x, y, strict=True)
    ]
    table = np.array(results).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _flux(
    values: np.ndarray, errors2: np.ndarray, stamp: np.ndarray, *, x: float, y: float
) -> tuple[float, float]:
    """Return one PSF flux and its claimed error."""
    half, middle = min(_PHOTOMETRY_HALF, stamp.shape[0] // 2), stamp.shape[0] // 2
    column, row = round(x), round(y)
    if not (half <= column < values.shape[1] - half and half <= row < values.shape[0] - half):
        return float("nan"), float("nan")
    profile = ndimage.shift(stamp, (y - row, x - column), order=3, mode="constant")
    profile = profile[middle - half : middle + half + 1, middle - half : middle + half + 1]
    window = np.s_[row - half : row + half + 1, column - half : column + half + 1]
    weight = 1 / errors2[window]
    if profile[weight > 0].sum() < 0.7 * stamp.sum():
        return float("nan"), float("nan")
    information = float(np.sum(weight * profile**2))
    return float(np.sum(weight * profile * values[window])) / information, information**-0.5


def _detect(pair: SimulatedPair, significance: np.ndarray, areas: _Areas) -> tuple[float, int]:
    """Return completeness at S/N >= 5 and the number of false peaks."""
    peaks = []
    for sign in (1, -1):
        map_ = np.where(areas.bad, 0.0, sign * significance)
        rows, columns = np.nonzero((map_ > 5) & (map_ == ndimage.maximum_filter(map_, size=9)))
        peaks += [(x, y, sign) for x, y in zip(columns, rows, strict=True)]
    found = np.array(peaks, dtype=float).reshape(-1, 3)
    explained = areas.near_saturation[found[:, 1].astype(int), found[:, 0].astype(int)]
    recovered, expected = 0, 0
    for row in pair.truth:
        distance = np.hypot(found[:, 0] - row["x"], found[:, 1] - row["y"])
        explained = explained | (distance < (4.0 if row["kind"] == "transient" else 6.0))
        in_area = not areas.bad[round(row["y"]), round(row["x"])]
        if row["kind"] == "transient" and row["snr"] >= 5 and in_area:
            expected += 1
            recovered += bool(np.any((distance < 1.5) & (found[:, 2] == np.sign(row["difference_flux"]))))
    return (recovered / expected if expected else float("nan")), int(np.count_nonzero(~explained))


def _median(values: np.ndarray) -> float:
    """Return the median of what is finite; NaN for nothing."""
    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")
