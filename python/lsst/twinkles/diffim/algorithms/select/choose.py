"""Which of many exposures may serve as templates, and in which order."""

from __future__ import annotations

__all__ = (
    "SelectionLimits",
    "find_reasons",
    "predict_errors",
    "quantile_ranks",
)

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .depth import difference_flux_error, flux_error
from .figures import VisitFigures, overlap_fraction

_CHUNK = 256


@dataclass(frozen=True)
class SelectionLimits:
    """What a template must fulfil; see the task's configuration for the meaning."""

    min_fwhm: float = 0.0
    max_fwhm: float = np.inf
    fwhm_in_pixels: bool = False
    min_mjd: float = -np.inf
    max_mjd: float = np.inf
    min_separation: float = 0.0
    min_overlap: float = 0.0
    same_band: bool = True
    excluded: frozenset[int] = field(default_factory=frozenset)


def find_reasons(
    candidates: Sequence[VisitFigures], science: VisitFigures | None, limits: SelectionLimits
) -> list[str]:
    """Tell why exposures cannot be templates.

    Parameters
    ----------
    candidates : sequence of `VisitFigures`
        Exposures.
    science : `VisitFigures` or `None`
        Exposure they are to be subtracted from; `None` for a choice that is not for one in particular.
    limits : `SelectionLimits`
        What is asked for.

    Returns
    -------
    reasons : `list` [`str`]
        One a candidate; empty for one that may serve.
    """
    return [_find_reason(candidate, science, limits) for candidate in candidates]


def _find_reason(candidate: VisitFigures, science: VisitFigures | None, limits: SelectionLimits) -> str:
    return (
        _find_flaw(candidate, limits)
        or ("" if science is None else _find_mismatch(candidate, science, limits))
        or ""
    )


def _find_flaw(candidate: VisitFigures, limits: SelectionLimits) -> str:
    """Return what is wrong with an exposure by itself."""
    if candidate.visit in limits.excluded:
        return "excluded"
    if not candidate.is_usable:
        return "noise or PSF unknown"
    fwhm = candidate.fwhm if limits.fwhm_in_pixels else candidate.fwhm_arcsec
    unit = "pixels" if limits.fwhm_in_pixels else "arcsec"
    if not limits.min_fwhm <= fwhm <= limits.max_fwhm:
        return f"FWHM {fwhm:.2f} {unit} outside {limits.min_fwhm:g}..{limits.max_fwhm:g}"
    if np.isfinite([limits.min_mjd, limits.max_mjd]).any() and not (
        limits.min_mjd <= candidate.mjd <= limits.max_mjd
    ):
        return f"MJD {candidate.mjd:.1f} outside {limits.min_mjd:g}..{limits.max_mjd:g}"
    return ""


def _find_mismatch(candidate: VisitFigures, science: VisitFigures, limits: SelectionLimits) -> str:
    """Return why an exposure does not go with a science exposure."""
    if candidate.visit == science.visit:
        return "the science visit itself"
    if candidate.detector != science.detector:
        return f"detector {candidate.detector}"
    if limits.same_band and candidate.band != science.band:
        return f"band {candidate.band}"
    if science.is_calibrated and not candidate.is_calibrated:
        return "not calibrated"
    # Written so that an unknown time is too near.
    if limits.min_separation > 0 and not abs(candidate.mjd - science.mjd) >= limits.min_separation:
        return f"less than {limits.min_separation:g} days away"
    overlap = overlap_fraction(science.corners, candidate.corners)
    if overlap < limits.min_overlap or overlap == 0.0:
        return f"covers {100 * overlap:.0f} percent"
    return ""


def predict_errors(candidates: Sequence[VisitFigures], science: VisitFigures | None) -> np.ndarray:
    """Return the flux errors of point sources in the differences with some templates.

    Parameters
    ----------
    candidates : sequence of `VisitFigures`
        Templates.
    science : `VisitFigures` or `None`
        Science exposure; `None` for the errors in the templates themselves.

    Returns
    -------
    errors : `numpy.ndarray`, ``(N,)``
        In nJy, or in the exposures' own unit if the science exposure (all of them, if there is none) is not
        calibrated; NaN for a candidate without noise or PSF. Compare `depth.difference_flux_error`.
    """
    if science is None:
        known = all(c.is_calibrated for c in candidates)
        return np.array([_own_error(c, 1.0 if known else np.nan) for c in candidates])
    scale = 1.0 if science.is_calibrated else np.nan
    variance = science.variance_at(scale)
    errors = np.full(len(candidates), np.nan)
    usable = np.array([i for i, c in enumerate(candidates) if c.is_usable], dtype=int)
    for start in range(0, len(usable), _CHUNK):
        part = usable[start : start + _CHUNK]
        errors[part] = difference_flux_error(
            science.power[None],
            np.stack([candidates[i].power for i in part]),
            np.full(len(part), variance),
            np.array([candidates[i].variance_at(scale) for i in part]),
        )
    return errors


def _own_error(candidate: VisitFigures, scale: float) -> float:
    if not candidate.is_usable:
        return np.nan
    return float(flux_error(candidate.power, candidate.variance_at(scale)))


def quantile_ranks(n: int, *, q_min: float, q_max: float, n_min: int) -> tuple[int, int]:
    """Return the first rank and the one after the last between two quantiles.

    Parameters
    ----------
    n : `int`
        Number of exposures, sorted by seeing.
    q_min, q_max : `float`
        Quantiles.
    n_min : `int`
        Least number to take, if there are as many.

    Returns
    -------
    start, stop : `int`
        ``round(q_min n)`` and ``round(q_max n)``; so far apart, downwards only at the end, that they
        hold ``n_min``.
    """
    start = max(0, min(round(q_min * n), n - n_min))
    stop = min(n, max(round(q_max * n), start + n_min))
    return start, stop
