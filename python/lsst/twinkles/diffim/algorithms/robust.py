"""Location and width that a few outliers do not move."""

from __future__ import annotations

__all__ = ("robust_moments", "robust_scatter")

import numpy as np

from .cells_nb import MAD_TO_SIGMA


def robust_moments(values: np.ndarray) -> tuple[float, float]:
    """Return median and 1.4826 times the median absolute deviation of what is finite; NaN for nothing."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return float("nan"), float("nan")
    middle = float(np.median(finite))
    return middle, float(MAD_TO_SIGMA * np.median(np.abs(finite - middle)))


def robust_scatter(values: np.ndarray) -> float:
    """Return 1.4826 times the median absolute deviation of what is finite; NaN for nothing."""
    return robust_moments(values)[1]
