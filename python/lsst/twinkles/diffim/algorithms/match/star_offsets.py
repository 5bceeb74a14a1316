"""How far static stars lie off their place in the template, from what is left of them in a difference."""

from __future__ import annotations

__all__ = ("StarOffsets", "kernel_centroids", "measure_star_offsets")

from dataclasses import dataclass

import numpy as np

from ..fourier import shift_and_slopes
from ..psf_grid import PsfGrid
from ..robust import robust_scatter
from .prefilter import cut_stamps

# Stars that a scatter is measured from at least, and the share of them with the smallest errors that is used.
_FEWEST = 10
_BEST_SHARE = 1 / 3
# Standard errors by which the scatter has to exceed what noise makes.
_SIGNIFICANCE = 3.0
# Pixels between the shifted stamps whose difference makes a slope.
_STEP = 0.05


@dataclass(frozen=True)
class StarOffsets:
    """Offsets of stars between the two images after matching; all ``(N,)``, pixels.

    Attributes
    ----------
    dx, dy : `numpy.ndarray`
        Position in the science image less that in the matched template.
    error : `numpy.ndarray`
        Standard error of either coordinate from the noise of the pixels; NaN if nothing could be measured.
    """

    dx: np.ndarray
    dy: np.ndarray
    error: np.ndarray

    def scatter(self) -> float:
        """Return the scatter of a coordinate beyond what the noise of the pixels makes, 0 if there is none.

        From the third of the stars with the smallest errors; with fewer than ten it is 0. An excess of less
        than three times what noise alone would scatter by counts as none.
        """
        known = np.flatnonzero(np.isfinite(self.error) & np.isfinite(self.dx) & np.isfinite(self.dy))
        best = known[np.argsort(self.error[known])][: max(_FEWEST, int(_BEST_SHARE * len(known)))]
        if len(best) < _FEWEST:
            return 0.0
        total = np.mean([robust_scatter(d[best]) ** 2 for d in (self.dx, self.dy)])
        noise = float(np.mean(self.error[best] ** 2))
        # A robust variance of n normal values scatters by 1.6 sqrt(2 / n) of it; there are two coordinates.
        standard_error = 1.6 * noise / np.sqrt(len(best))
        excess = total - noise
        return float(np.sqrt(excess)) if excess > _SIGNIFICANCE * standard_error else 0.0


def measure_star_offsets(
    image: np.ndarray,
    difference: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    *,
    psf_image: PsfGrid,
    psf_difference: PsfGrid,
    x: np.ndarray,
    y: np.ndarray,
    half: int,
) -> StarOffsets:
    """Measure by how much static stars are displaced.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Sky-subtracted science image, which tells where the stars are and how bright.
    difference, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Difference with white noise on the same flux scale, and its variance.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels that get no weight.
    psf_image, psf_difference : `PsfGrid`
        PSFs of the two.
    x, y : `numpy.ndarray`, ``(N,)``, int
        Central pixels of the stars.
    half : `int`
        Half side of the squares of pixels that are looked at.

    Returns
    -------
    offsets : `StarOffsets`
        In the order of the stars.

    Notes
    -----
    A star of flux ``F`` displaced by ``(dx, dy)`` leaves ``-F (dx dP/dx + dy dP/dy)``; fitted together with
    an amplitude of ``P`` itself, which takes up an error of the flux scale, by weighted least squares.
    """
    if len(x) == 0:
        return StarOffsets(*(np.zeros(0) for _ in range(3)))
    size = 2 * half + 1
    good = ~cut_stamps(bad, x, y, half)
    stars = np.where(good, cut_stamps(image, x, y, half), 0.0).astype(float)
    profile = psf_image.padded(size).evaluate(x=x, y=y)
    flux, sx, sy = _fit_place(stars, good, profile)
    profile = psf_difference.padded(size).evaluate(x=x, y=y)
    centred, along_x, along_y = shift_and_slopes(profile, dx=sx, dy=sy, step=_STEP)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.where(good, 1.0 / cut_stamps(variance, x, y, half), 0.0).reshape(len(x), -1)
    design = np.stack([centred, -flux[:, None, None] * along_x, -flux[:, None, None] * along_y], axis=1)
    design = design.reshape(len(x), 3, -1)
    left = np.where(good, cut_stamps(difference, x, y, half), 0.0).astype(float).reshape(len(x), -1)
    normal = (design * weight[:, None, :]) @ design.transpose(0, 2, 1)
    moment = (design * (weight * left)[:, None, :]).sum(axis=2)
    usable = np.linalg.cond(np.where(np.isfinite(normal), normal, 0.0)) < 1e12
    result = np.full((len(x), 3), np.nan)
    if usable.any():
        inverse = np.linalg.inv(normal[usable])
        solution = (inverse @ moment[usable, :, None])[:, :, 0]
        errors = np.sqrt(np.maximum(0.5 * (inverse[:, 1, 1] + inverse[:, 2, 2]), 0.0))
        result[usable] = np.column_stack([solution[:, 1], solution[:, 2], errors])
    return StarOffsets(result[:, 0], result[:, 1], result[:, 2])


def _fit_place(
    stars: np.ndarray, good: np.ndarray, profile: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return flux and offset from the central pixel of stars, by two linear steps."""
    dx, dy = np.zeros(len(stars)), np.zeros(len(stars))
    for _ in range(2):
        centred, along_x, along_y = shift_and_slopes(profile, dx=dx, dy=dy, step=_STEP)
        design = (np.stack([centred, -along_x, -along_y], axis=1) * good[:, None]).reshape(len(stars), 3, -1)
        normal = design @ design.transpose(0, 2, 1) + 1e-12 * np.eye(3)
        moment = (design * stars.reshape(len(stars), 1, -1)).sum(axis=2)
        flux, fx, fy = np.linalg.solve(normal, moment[:, :, None])[:, :, 0].T
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = [np.clip(np.nan_to_num(f / flux), -0.5, 0.5) for f in (fx, fy)]
        dx, dy = np.clip(dx + steps[0], -1.5, 1.5), np.clip(dy + steps[1], -1.5, 1.5)
    return flux, dx, dy


def kernel_centroids(kernels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first moments of kernels ``(N, S, S)`` about their middle pixel, ``(N,)`` each.

    A matching kernel that moves the light by so many pixels has absorbed a registration error of that size
    (Alard & Lupton 1998, section 2).
    """
    half = kernels.shape[-1] // 2
    offset = np.arange(-half, half + 1)
    total = kernels.sum(axis=(1, 2))
    return (kernels.sum(axis=1) @ offset) / total, (kernels.sum(axis=2) @ offset) / total
