"""Pixels of exposures with their weights, ready for measurement."""

from __future__ import annotations

__all__ = ("weigh_direct_images", "weigh_exposure")

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adapters.kernels import evaluate_kernel
from ..adapters.masks import bad_pixels
from ..adapters.psfs import sample_psf
from ..algorithms.fourier import half_plane_weights, transform_stamps
from ..algorithms.noise import fit_sky
from ..algorithms.psf_grid import PsfGrid
from ..algorithms.spatial import chebyshev_image
from .plugins.base import MeasuredImage

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage


def weigh_exposure(exposure: VisitImage, planes: Iterable[str]) -> MeasuredImage:
    """Return pixels and inverse variances.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure; not modified.
    planes : iterable of `str`
        Mask planes whose pixels get the value and the weight 0, as do pixels of no positive variance.
    """
    image, variance = exposure.image.array, exposure.variance.array
    bad = bad_pixels(exposure.mask, planes)
    with np.errstate(invalid="ignore", divide="ignore"):
        bad |= ~(variance > 0) | ~np.isfinite(variance) | ~np.isfinite(image)
        weight = np.where(bad, np.float32(0.0), np.float32(1.0) / variance)
    psf = sample_psf(exposure.psf, exposure.bbox, grid=4)
    return MeasuredImage(np.where(bad, np.float32(0.0), image), weight, psf)


def weigh_direct_images(
    difference: DifferenceImage,
    science: VisitImage,
    matched: VisitImage,
    planes: Iterable[str],
    *,
    sky_cell: int,
    sky_order: int,
) -> tuple[MeasuredImage, MeasuredImage]:
    """Return pixels of the two images that were subtracted, without their skies.

    Parameters
    ----------
    difference, science, matched : `lsst.images.VisitImage`
        Difference, science image and matched template; not modified.
    planes : iterable of `str`
        As in `weigh_exposure`.
    sky_cell : `int`
        Side in pixels of the cells whose medians give the sky; smaller on small images.
    sky_order : `int`
        Order of the polynomial through them.
    """
    direct = []
    for exposure in (science, matched):
        pixels = weigh_exposure(exposure, planes)
        bad = pixels.weight == 0.0
        # Five cells at least along each axis: fewer would not hold a polynomial of order 2.
        size = min(sky_cell, max(16, min(bad.shape) // 5))
        sky = fit_sky(pixels.image, bad, size=size, order=sky_order)
        direct.append(
            replace(pixels, image=pixels.image - chebyshev_image(sky, shape=bad.shape, order=sky_order))
        )
    kernel = getattr(difference, "kernel", None)  # raises if there is none
    if kernel is not None and matched.metadata.get("psfMatched", True):
        factor = correlation_factor(kernel, difference, sample_psf(matched.psf, matched.bbox, grid=1))
        direct[1] = replace(direct[1], noise_factor=factor)
    return direct[0], direct[1]


def correlation_factor(kernel: Any, difference: DifferenceImage, psf: PsfGrid) -> float:
    """Return by how much the correlation of a convolved image's noise raises the error of a PSF flux.

    With the power spectra ``p`` of the PSF and ``k`` of the kernel the variance of ``sum(P I)`` is the pixel
    variance times ``mean(p k) / mean(k)`` instead of ``mean(p)``.
    """
    box = difference.bbox
    image = evaluate_kernel(kernel, box, x=np.array([box.x.size / 2]), y=np.array([box.y.size / 2]))
    side = 2 * max(image.shape[-1], psf.size)
    p = np.abs(transform_stamps(psf.mean()[None], side)) ** 2
    k = np.abs(transform_stamps(image, side)) ** 2
    weight = half_plane_weights(side)

    def total(power: np.ndarray) -> float:
        return float((power * weight).sum())

    return float(np.sqrt(total(p * k) * total(np.ones_like(p)) / (total(p) * total(k))))
