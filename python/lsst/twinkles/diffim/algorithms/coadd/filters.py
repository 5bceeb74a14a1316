"""Filters that bring images to one PSF and sum them up to a coadd with white noise."""

from __future__ import annotations

__all__ = ("CoaddFilters",)

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..fourier import measure_extent, stamps_from_transforms, transform_stamps
from ..match.prefilter import transform_psfs
from ..psf_grid import PsfGrid
from .inputs import CoaddInput

# Added to the transforms of the PSFs: keeps the filters compact where models are only rounding.
_BLIND = 1e-6
# Power of the common PSF below which an image is not sharpened or smoothed any further to match it.
_WIENER = 1e-3
# Width of the Gaussian that the widest PSF is smoothed with to be the common one, relative to its own.
_SMOOTHING = 0.35


@dataclass(frozen=True)
class CoaddFilters:
    """The filters of some images whose filtered sum is a coadd.

    Attributes
    ----------
    inputs : sequence of `CoaddInput`
        Images; only PSFs and noises are looked at.
    method : `str`
        ``"proper"``: the sum that loses nothing (Zackay & Ofek 2017, doi:10.3847/1538-4357/836/2/188,
        equation 7),

            ``R^ = sum_j conj(P_j^) M_j^ / v_j / sqrt(sum_j |P_j^|^2 / v_j)``,

        divided by ``sqrt(sum_j 1 / v_j)`` so that fluxes stay. ``"matched"``: every image is matched to the
        PSF of the widest, smoothed a little, by a Wiener filter of the PSF models; the mean with the weights
        ``1 / v_j`` is whitened.

    Notes
    -----
    In either case the noise is white, of variance ``1 / sum_j (1 / v_j)``, and the PSF is known
    everywhere, whatever the images.
    """

    inputs: Sequence[CoaddInput]
    method: Literal["proper", "matched"]

    def psf(self, *, x: np.ndarray, y: np.ndarray, size: int, side: int) -> PsfGrid:
        """Return the PSF of the coadd on a grid of columns ``x`` and rows ``y``, stamps of ``size`` (odd)."""
        grid_x, grid_y = (a.ravel() for a in np.meshgrid(x, y))
        filters = self(grid_x, grid_y, side)
        total: np.ndarray | float = 0.0
        for item, transform in zip(self.inputs, filters, strict=True):
            # Not tapered as in the filters: the light of the wings belongs to the flux.
            own = transform_stamps(item.psf.padded(size).evaluate(x=grid_x, y=grid_y), side)
            total = total + transform * own
        stamps = stamps_from_transforms(np.asarray(total), side, size).astype(float)
        stamps /= stamps.sum(axis=(1, 2), keepdims=True)
        return PsfGrid(stamps=stamps.reshape(len(y), len(x), size, size), x=np.asarray(x), y=np.asarray(y))

    def extent(self, *, x: float, y: float, tolerance: float, side: int = 256) -> int:
        """Return the half side that holds all but ``tolerance`` of the energy of the filters."""
        filters = self(np.array([x]), np.array([y]), side)
        energy = sum(stamps_from_transforms(f, side, side - 1)[0] ** 2 for f in filters)
        return measure_extent(np.asarray(energy), tolerance)

    def matching(self, number: int, x: np.ndarray, y: np.ndarray, side: int) -> np.ndarray:
        """Return the filter that gives one image the common PSF, without weight and whitening."""
        psfs = self.inputs[number].psf, self.inputs[self.widest].psf
        own, widest = (
            p + np.float32(_BLIND) for p in transform_psfs(*psfs, x=x, y=y, side=side, dtype=np.float32)
        )
        return _match(own, widest * self._smooth(side))

    def __call__(self, x: np.ndarray, y: np.ndarray, side: int) -> list[np.ndarray]:
        """Return the filter of each image at positions, ``(N, side, side // 2 + 1)`` complex64."""
        weights = np.array([1.0 / item.sky.evaluate(x=x, y=y) for item in self.inputs])
        share = (weights / weights.sum(axis=0)).astype(np.float32)[..., None, None]
        stamps = (item.psf for item in self.inputs)
        psfs = [
            p + np.float32(_BLIND) for p in transform_psfs(*stamps, x=x, y=y, side=side, dtype=np.float32)
        ]
        if self.method == "proper":
            filters = [w * np.conj(p) for w, p in zip(share, psfs, strict=True)]
        else:
            goal = psfs[self.widest] * self._smooth(side)
            filters = [w * _match(p, goal) for w, p in zip(share, psfs, strict=True)]
        # The noise of an image is its variance, proportional to 1 / share.
        power = sum(_power(f) / w for w, f in zip(share, filters, strict=True))
        white = 1.0 / np.sqrt(np.asarray(power))
        return [(f * white).astype(np.complex64) for f in filters]

    @property
    def widest(self) -> int:
        """Number of the image with the widest PSF (`int`)."""
        return int(np.argmin([(item.psf.mean() ** 2).sum() for item in self.inputs]))

    def _smooth(self, side: int) -> np.ndarray:
        """Return the transform of the Gaussian that the widest PSF is smoothed with."""
        area = 1.0 / (self.inputs[self.widest].psf.mean() ** 2).sum()
        sigma = _SMOOTHING * np.sqrt(area / (4.0 * np.pi))
        fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
        return np.exp(-2.0 * (np.pi * sigma) ** 2 * (fx**2 + fy**2)).astype(np.float32)


def _match(psf: np.ndarray, goal: np.ndarray) -> np.ndarray:
    return goal * np.conj(psf) / (_power(psf) + np.float32(_WIENER) * _power(goal))


def _power(transform: np.ndarray) -> np.ndarray:
    return transform.real**2 + transform.imag**2
