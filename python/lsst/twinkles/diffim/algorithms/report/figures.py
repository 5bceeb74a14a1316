"""Figures that say how good an image is."""

from __future__ import annotations

__all__ = (
    "KernelFigures",
    "circular_mean",
    "describe_kernels",
    "neighbour_correlation",
    "residual_ratios",
)

from dataclasses import dataclass

import numpy as np

from ..match.prefilter import cut_stamps

_CLIP = 4.0
_BAND = 64


@dataclass(frozen=True)
class KernelFigures:
    """Sum and centroid of kernels; all ``(N,)``.

    Attributes
    ----------
    sums : `numpy.ndarray`
        Sum of the pixels.
    dx, dy : `numpy.ndarray`
        Centroid in pixels from the middle; NaN for a kernel of no sum.
    """

    sums: np.ndarray
    dx: np.ndarray
    dy: np.ndarray

    @property
    def length(self) -> np.ndarray:
        """Distance of the centroid from the middle in pixels (`numpy.ndarray`)."""
        return np.hypot(self.dx, self.dy)


def describe_kernels(kernels: np.ndarray) -> KernelFigures:
    """Return sum and centroid of kernel images ``(N, S, S)``, odd and centred."""
    half = kernels.shape[-1] // 2
    offset = np.arange(-half, half + 1)
    sums = kernels.sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        dx = (kernels.sum(axis=1) @ offset) / sums
        dy = (kernels.sum(axis=2) @ offset) / sums
    return KernelFigures(sums, np.where(sums != 0, dx, np.nan), np.where(sums != 0, dy, np.nan))


def neighbour_correlation(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, *, max_pixels: int
) -> float:
    """Return the correlation of neighbouring pixels, mean of x and y.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels and their variance; their ratio is clipped at 4 sigma.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that are no blank sky.
    max_pixels : `int`
        Pixels to look at; bands of rows are left out of a larger image.

    Returns
    -------
    correlation : `float`
        0 for white noise; NaN if there are fewer than 100 pairs along an axis.
    """
    step = _BAND * max(1, int(np.ceil(image.size / max_pixels)))
    products: list[list[np.ndarray]] = [[], []]
    power: list[np.ndarray] = []
    for start in range(0, image.shape[0], step):
        rows = slice(start, start + _BAND)
        good = ~bad[rows] & (variance[rows] > 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            v = np.where(good, np.clip(image[rows] / np.sqrt(variance[rows]), -_CLIP, _CLIP), 0.0)
        products[0].append((v[:, 1:] * v[:, :-1])[good[:, 1:] & good[:, :-1]])
        products[1].append((v[1:] * v[:-1])[good[1:] & good[:-1]])
        power.append(v[good] ** 2)
    along = [np.concatenate(p) for p in products]
    if min(len(a) for a in along) < 100:
        return float("nan")
    return float((along[0].mean() + along[1].mean()) / 2 / np.concatenate(power).mean())


def residual_ratios(
    science: np.ndarray,
    difference: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    *,
    x: np.ndarray,
    y: np.ndarray,
    half: int,
) -> np.ndarray:
    """Return how much of the light of stars is left in a difference, beyond its noise.

    Parameters
    ----------
    science, difference : `numpy.ndarray`, ``(Ny, Nx)``
        Sky-subtracted science image and difference.
    variance : `numpy.ndarray`, ``(Ny, Nx)``
        Variance of the difference.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels left out.
    x, y : `numpy.ndarray`, ``(N,)``, int
        Central pixels of stars.
    half : `int`
        Half side of the squares that are looked at.

    Returns
    -------
    ratios : `numpy.ndarray`, ``(N,)``
        ``sqrt(sum(D**2 - V) / sum(S**2))``, 0 where the sum is negative; NaN where no pixel is good.
        Squares, and not absolute values, because the noise can be taken out of them exactly.
    """
    good = ~cut_stamps(bad, x, y, half)
    excess = cut_stamps(difference, x, y, half).astype(float) ** 2 - cut_stamps(variance, x, y, half)
    power = np.where(good, excess, 0.0).sum(axis=(1, 2))
    light = np.where(good, cut_stamps(science, x, y, half).astype(float) ** 2, 0.0).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.maximum(power, 0.0) / np.where(light > 0.0, light, np.nan))


def circular_mean(angles: np.ndarray) -> float:
    """Return the direction of the mean of unit vectors, radians; NaN for none."""
    if len(angles) == 0:
        return float("nan")
    return float(np.arctan2(np.sin(angles).mean(), np.cos(angles).mean()))
