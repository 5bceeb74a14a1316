"""What was found, against the truth."""

from __future__ import annotations

__all__ = (
    "KindCount",
    "TruthComparison",
    "compare_with_truth",
    "count_kinds",
    "format_comparison",
    "format_kinds",
)

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from ..algorithms.robust import robust_scatter

_LEAST_CHANGE = 0.2
"""Part of the threshold below which a true change counts for nothing."""


@dataclass(frozen=True)
class TruthComparison:
    """How detections and true changes agree.

    Attributes
    ----------
    n_detections : `int`
        Detections in the catalogue.
    n_expected, n_found : `int`
        True changes above the threshold, and those of them that were detected.
    n_false : `int`
        Detections with no true change near, however faint.
    flux_bias : `float`
        Median of measured over true flux, less one, of the found that no other
        change is near; NaN for none.
    pull_median, pull_scatter : `float`
        Median, and 1.4826 times the median absolute deviation, of (measured -
        true) / error of the same, positive for what was measured too bright of
        either sign: 0 and 1 for a perfect catalogue.
    n_alone : `int`
        How many these are.
    blend_pull_scatter : `float`
        The same scatter of the found that another change is near, of which
        what is too faint or too close to be found itself is measured with them.
    position_rms : `float`
        Root of the mean squared distance of the found, per axis, in pixels.
    found : `numpy.ndarray`, ``(N,)``, bool
        For every row of the truth, whether it was detected.
    match : `numpy.ndarray`, ``(N,)``
        For every row of the truth, its detection; -1 for none.
    alone : `numpy.ndarray`, ``(N,)``, bool
        For every row of the truth, whether no other change is near.
    false : `numpy.ndarray`, ``(M,)``, bool
        For every detection, whether nothing explains it.
    threshold : `float`
        Signal-to-noise from which a change is expected to be found.
    """

    n_detections: int
    n_expected: int
    n_found: int
    n_false: int
    flux_bias: float
    pull_median: float
    pull_scatter: float
    n_alone: int
    blend_pull_scatter: float
    position_rms: float
    found: np.ndarray
    match: np.ndarray
    alone: np.ndarray
    false: np.ndarray
    threshold: float

    @property
    def completeness(self) -> float:
        """Fraction of the expected that was found (`float`; NaN if none was expected)."""
        return self.n_found / self.n_expected if self.n_expected else float("nan")


def compare_with_truth(
    dia_sources: Mapping[str, Any],
    truth: Mapping[str, Any],
    *,
    radius: float = 2.5,
    isolation: float = 12.0,
    threshold: float = 5.0,
    flux_column: str = "psfFlux",
) -> TruthComparison:
    """Compare a catalogue of detections with what changed.

    Parameters
    ----------
    dia_sources : mapping of columns
        ``x``, ``y`` (pixels), ``isNegative``, and the flux and its error
        (``psfFlux``, ``psfFluxErr``) in the unit of the truth.
    truth : mapping of columns
        ``x``, ``y`` (pixels), ``difference_flux`` and ``snr``.
    radius : `float`, optional
        Pixels within which a detection of the same sign is that change.
    isolation : `float`, optional
        Pixels within which another change spoils the flux: images of a lensed
        quasar are found one by one but measured together.
    threshold : `float`, optional
        True signal-to-noise from which a change is expected to be found.
    flux_column : `str`, optional
        Column of the measured flux.

    Returns
    -------
    comparison : `TruthComparison`
        Counts and statistics.

    Notes
    -----
    Changes below a fifth of the threshold are as good as none: of the many
    supernovae that have faded one is near any place by chance. A detection is
    false if no other change of any sign lies within twice the radius: a change
    of 4 sigma that noise lifts over the threshold is not an error.
    """
    position = np.stack([_column(dia_sources, "x"), _column(dia_sources, "y")], axis=1)
    negative = np.asarray(dia_sources["isNegative"], dtype=bool)
    places = np.stack([_column(truth, "x"), _column(truth, "y")], axis=1)
    change, snr = _column(truth, "difference_flux"), _column(truth, "snr")
    expected, real = snr >= threshold, snr >= _LEAST_CHANGE * threshold
    match = np.where(real, _match(position, negative, places, change < 0, radius=radius), -1)
    found = match >= 0
    is_false = _distance_to_nearest(position, places[real]) > 2 * radius
    alone = _distance_to_neighbour(places, real) > isolation
    measured = found & expected & alone
    flux, error = (_column(dia_sources, name) for name in (flux_column, f"{flux_column}Err"))

    def pulls(rows: np.ndarray) -> np.ndarray:
        # Too bright is positive for either sign of the change.
        return np.sign(change[rows]) * (flux[match[rows]] - change[rows]) / error[match[rows]]

    offset = position[match[measured]] - places[measured]
    pull = pulls(measured)
    return TruthComparison(
        n_detections=len(position),
        n_expected=int(np.count_nonzero(expected)),
        n_found=int(np.count_nonzero(found & expected)),
        n_false=int(np.count_nonzero(is_false)),
        flux_bias=_median(flux[match[measured]] / change[measured] - 1),
        pull_median=_median(pull),
        pull_scatter=robust_scatter(pull),
        n_alone=len(pull),
        blend_pull_scatter=robust_scatter(pulls(found & expected & ~alone)),
        position_rms=float(np.sqrt(np.mean(offset**2))) if len(offset) else float("nan"),
        found=found,
        match=match,
        alone=alone,
        false=is_false,
        threshold=threshold,
    )


@dataclass(frozen=True)
class KindCount:
    """What was found of one kind of variable things.

    Attributes
    ----------
    kind : `str`
        Its name.
    n_expected, n_found : `int`
        True changes above the threshold, and those of them that were detected.
    n_below : `int`
        Fainter changes that were detected all the same.
    flux_bias : `float`
        Median of measured over true flux, less one, of the found that no other
        change is near; NaN for none.
    """

    kind: str
    n_expected: int
    n_found: int
    n_below: int
    flux_bias: float

    @property
    def n_missed(self) -> int:
        """Expected changes that were not detected (`int`)."""
        return self.n_expected - self.n_found


def count_kinds(
    comparison: TruthComparison,
    dia_sources: Mapping[str, Any],
    truth: Mapping[str, Any],
    *,
    flux_column: str = "psfFlux",
) -> list[KindCount]:
    """Count what was found of each kind.

    Parameters
    ----------
    comparison : `TruthComparison`
        Of the same two tables.
    dia_sources, truth : mapping of columns
        As for `compare_with_truth`; the truth with a column ``kind``.
    flux_column : `str`, optional
        Column of the measured flux.

    Returns
    -------
    counts : `list` [`KindCount`]
        In the order of the names.
    """
    kinds = np.asarray(truth["kind"]).astype(str)
    expected = _column(truth, "snr") >= comparison.threshold
    change, flux = _column(truth, "difference_flux"), _column(dia_sources, flux_column)
    counts = []
    for kind in np.unique(kinds):
        mine = kinds == kind
        found = mine & expected & comparison.found
        alone = found & comparison.alone
        counts.append(
            KindCount(
                kind=str(kind),
                n_expected=int(np.count_nonzero(mine & expected)),
                n_found=int(np.count_nonzero(found)),
                n_below=int(np.count_nonzero(mine & ~expected & comparison.found)),
                flux_bias=_median(flux[comparison.match[alone]] / change[alone] - 1),
            )
        )
    return counts


def format_kinds(counts: Sequence[KindCount], n_false: int) -> str:
    """Write counts as a table for a terminal, with the detections that nothing explains."""
    lines = [f"{'':20s} {'expected':>8s} {'found':>6s} {'missed':>6s} {'fainter':>7s} {'flux bias':>10s}"]
    for c in counts:
        name = c.kind.replace("_", " ")
        bias = "" if np.isnan(c.flux_bias) else f"{100 * c.flux_bias:+.1f} %"
        lines.append(
            f"{name:20s} {c.n_expected:8d} {c.n_found:6d} {c.n_missed:6d} {c.n_below:7d} {bias:>10s}"
        )
    lines.append(f"{'false detections':20s} {'':8s} {n_false:6d}")
    return "\n".join(lines)


def format_comparison(comparison: TruthComparison) -> str:
    """Say a comparison in lines for a terminal."""
    c = comparison
    return "\n".join(
        (
            f"detections                     {c.n_detections}",
            f"true changes of S/N >= {c.threshold:g}       {c.n_expected}",
            f"  of these found               {c.n_found} ({_percent(c.completeness)})",
            f"false detections               {c.n_false}",
            f"flux, measured / true - 1      {_percent(c.flux_bias)} (median, of those apart)",
            f"(measured - true) / error      median {c.pull_median:+.2f}, scatter {c.pull_scatter:.2f} "
            f"(of {c.n_alone} apart)",
            f"  scatter in blends            {c.blend_pull_scatter:.2f} (with what is not resolved)",
            f"position error                 {c.position_rms:.2f} pixels rms an axis",
        )
    )


def _column(table: Mapping[str, Any], name: str) -> np.ndarray:
    """Return a column as floats without its unit."""
    return np.ma.filled(np.ma.asarray(np.asanyarray(table[name]), dtype=float), np.nan).astype(float)


def _match(
    position: np.ndarray, negative: np.ndarray, places: np.ndarray, fades: np.ndarray, *, radius: float
) -> np.ndarray:
    """Return, for each true change, the nearest detection of its sign within a radius; -1 for none."""
    match = np.full(len(places), -1)
    for sign in (False, True):
        rows = np.flatnonzero(negative == sign)
        wanted = np.flatnonzero(fades == sign)
        if len(rows) == 0 or len(wanted) == 0:
            continue
        distance, index = cKDTree(position[rows]).query(places[wanted], distance_upper_bound=radius)
        near = np.isfinite(distance)
        match[wanted[near]] = rows[index[near]]
    return match


def _distance_to_nearest(position: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return distances to the nearest place, ``(N,)``; infinity if there is none."""
    if len(position) == 0 or len(places) == 0:
        return np.full(len(position), np.inf)
    return cKDTree(places).query(position)[0]


def _distance_to_neighbour(places: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the distance of every place to the nearest real one that is not itself, ``(N,)``."""
    result = np.full(len(places), np.inf)
    if np.count_nonzero(real) > 1:
        tree, index = cKDTree(places[real]), np.flatnonzero(real)
        distance, nearest = tree.query(places, k=2)
        itself = index[nearest[:, 0]] == np.arange(len(places))
        result = np.where(itself, distance[:, 1], distance[:, 0])
    return result


def _median(values: np.ndarray) -> float:
    """Return the median of what is finite; NaN for nothing."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _percent(fraction: float) -> str:
    """Write a fraction as percent."""
    return "none" if np.isnan(fraction) else f"{100 * fraction:.1f} %"
