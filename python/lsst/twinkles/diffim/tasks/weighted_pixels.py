"""Pixels of exposures with their weights, ready for measurement."""

from __future__ import annotations

__all__ = ("WeightedPixelsConfig", "fitted_square", "weigh_direct_images", "weigh_exposure", "weigh_images")

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lsst.pex.config import Config, ListField, RangeField

from ..adapters.kernels import evaluate_kernel
from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.fourier import half_plane_weights, transform_stamps
from ..algorithms.in_threads import run_in_threads
from ..algorithms.noise import fit_sky
from ..algorithms.psf_grid import PsfGrid
from ..algorithms.spatial import chebyshev_rows
from ..algorithms.weigh_nb import weigh_pixels
from .plugins.base import MeasuredImage

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage


# Nodes along each axis at which PSFs are sampled.
_NODES = 4


class WeightedPixelsConfig(Config):
    """What tasks that measure have in common: which pixels they look at."""

    badMaskPlanes = ListField[str](
        doc="Pixels that get no weight.", default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"]
    )
    fitRadiusFwhm = RangeField[float](
        doc="Half side of the fitted squares over the FWHM of the PSF.", default=2.5, min=1.0
    )
    skyCell = RangeField[int](
        doc="Side in pixels of the cells whose medians give the sky of the direct images; smaller on small "
        "images.",
        default=128,
        min=16,
    )
    skyOrder = RangeField[int](doc="Order of the polynomial through them.", default=2, min=0)


def weigh_images(
    config: WeightedPixelsConfig, difference: DifferenceImage, direct: tuple[VisitImage, VisitImage] | None
) -> tuple[MeasuredImage, MeasuredImage | None, MeasuredImage | None]:
    """Return pixels and weights of a difference and, if given, of science image and matched template.

    Parameters
    ----------
    config : `WeightedPixelsConfig`
        Which pixels count.
    difference : `lsst.images.DifferenceImage`
        Difference; not modified.
    direct : 2-tuple of `lsst.images.VisitImage` or `None`
        What was subtracted from what; not modified.
    """
    pixels = weigh_exposure(difference, config.badMaskPlanes)
    if direct is None:
        return pixels, None, None
    science, template = weigh_direct_images(
        difference, *direct, config.badMaskPlanes, sky_cell=config.skyCell, sky_order=config.skyOrder
    )
    return pixels, science, template


def fitted_square(config: WeightedPixelsConfig, pixels: MeasuredImage) -> tuple[float, int]:
    """Return the FWHM of the PSF and the half side of the squares that are fitted, pixels."""
    fwhm = psf_fwhm(pixels.psf)
    return fwhm, int(np.ceil(config.fitRadiusFwhm * fwhm))


def weigh_exposure(exposure: VisitImage, planes: Iterable[str]) -> MeasuredImage:
    """Return pixels and inverse variances.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure; not modified.
    planes : iterable of `str`
        Mask planes whose pixels get the value and the weight 0, as do pixels of no positive variance.
    """
    bad = bad_pixels(exposure.mask, planes)
    return _weigh(exposure, bad, np.zeros((len(bad), 1)))


def _weigh(exposure: VisitImage, bad: np.ndarray, sky: np.ndarray) -> MeasuredImage:
    """Return pixels and weights; ``sky`` has the coefficients of each row (see `weigh_pixels`)."""
    image, variance = (
        np.ascontiguousarray(plane.array, dtype=np.float32) for plane in (exposure.image, exposure.variance)
    )
    pixels, weight = np.empty_like(image), np.empty_like(image)
    run_in_threads(weigh_pixels, len(image), image, variance, bad, sky, pixels, weight)
    psf = sample_psf(exposure.psf, exposure.bbox, grid=_NODES)
    return MeasuredImage(pixels, weight, psf)


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
    planes, direct = list(planes), []
    for exposure in (science, matched):
        image, bad = exposure.image.array, bad_pixels(exposure.mask, planes)
        # Five cells at least along each axis: fewer would not hold a polynomial of order 2.
        size = min(sky_cell, max(16, min(bad.shape) // 5))
        terms = fit_sky(image, bad | ~np.isfinite(image), size=size, order=sky_order)
        direct.append(_weigh(exposure, bad, chebyshev_rows(terms, shape=bad.shape, order=sky_order)))
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
