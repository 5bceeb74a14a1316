"""Assembly of the image that a subtraction returns."""

from __future__ import annotations

__all__ = ("make_difference_image", "make_matched_image", "merge_masks", "score_exposure")

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..adapters.masks import difference_mask_schema, planes_in_use, resolve_plane_name, set_plane
from ..adapters.metadata import copy_metadata
from ..adapters.psfs import serialisable_psf

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, Mask, VisitImage
    from lsst.pipe.base import Struct


def merge_masks(
    science: Mask,
    template: Mask,
    *,
    preserve: Sequence[str],
    rename: Mapping[str, str],
    spread: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    template_convolved: bool,
) -> Mask:
    """Return the mask of a difference.

    Parameters
    ----------
    science, template : `lsst.images.Mask`
        Masks of the two images on the same pixels; not modified.
    preserve : sequence of `str`
        Template planes that are copied.
    rename : mapping from `str` to `str`
        Template planes that are copied under another name.
    spread : mapping from `str` to callable
        For some planes the function that adds to marked pixels those which the convolution has
        spoilt through them; applied to the image that was convolved.
    template_convolved : `bool`
        Which one that was.
    """
    from lsst.images import Mask

    schema = difference_mask_schema()
    mask = Mask(schema=schema, bbox=science.bbox)

    def widen(name: str, plane: np.ndarray, convolved: bool) -> np.ndarray:
        return spread[name](plane) if convolved and name in spread else plane

    for name in planes_in_use(science):
        if name in schema.names and not name.startswith("DETECTED"):
            set_plane(mask, name, widen(name, science.get(name), not template_convolved))
    for name in planes_in_use(template):
        if name in {resolve_plane_name(p, template.schema) for p in preserve}:
            new = name
        elif name in {resolve_plane_name(p, template.schema) for p in rename}:
            new = next(v for k, v in rename.items() if resolve_plane_name(k, template.schema) == name)
        else:
            continue
        if new in schema.names:
            set_plane(mask, new, widen(name, template.get(name), template_convolved))
    return mask


def make_difference_image(
    science: VisitImage,
    *,
    image: np.ndarray,
    variance: np.ndarray,
    mask: Mask,
    psf: Any,
    kernel: Any,
    metadata: Mapping[str, Any] | None = None,
) -> DifferenceImage:
    """Return a difference on the pixels, in the units and with the calibration of the science image."""
    from lsst.images import DifferenceImage, Image

    return DifferenceImage(
        Image(np.ascontiguousarray(image, dtype=np.float32), bbox=science.bbox, unit=science.unit),
        mask=mask,
        variance=Image(
            np.ascontiguousarray(variance, dtype=np.float32), bbox=science.bbox, unit=science.unit**2
        ),
        sky_projection=science.sky_projection,
        obs_info=science.obs_info,
        summary_stats=science.summary_stats,
        photometric_scaling=science.photometric_scaling,
        psf=serialisable_psf(psf, science.bbox),
        detector=science.detector,
        aperture_corrections=science.aperture_corrections,
        band=science.band,
        kernel=kernel,
        templates=[],
        metadata=copy_metadata(science) | dict(metadata or {}),
    )


def make_matched_image(
    science: VisitImage,
    template: VisitImage,
    *,
    image: np.ndarray,
    variance: np.ndarray,
    mask: Mask,
    psf: Any,
    convolved: bool,
) -> VisitImage:
    """Return the template as it was subtracted, on the flux scale of the science image.

    Whether it was convolved, so that its noise is correlated, is kept in the
    metadata as ``psfMatched``.
    """
    from lsst.images import Image, VisitImage

    return VisitImage(
        Image(np.ascontiguousarray(image, dtype=np.float32), bbox=science.bbox, unit=science.unit),
        mask=mask,
        variance=Image(
            np.ascontiguousarray(variance, dtype=np.float32), bbox=science.bbox, unit=science.unit**2
        ),
        sky_projection=science.sky_projection,
        obs_info=template.obs_info,
        summary_stats=template.summary_stats,
        photometric_scaling=science.photometric_scaling,
        psf=serialisable_psf(psf, science.bbox),
        detector=science.detector,
        band=template.band,
        metadata=copy_metadata(template) | {"psfMatched": convolved},
    )


def score_exposure(result: Struct) -> DifferenceImage | None:
    """Return the significance image of an image difference as an exposure that can be written.

    Parameters
    ----------
    result : `lsst.pipe.base.Struct`
        What `ImageDifferenceTask.run` returned.

    Returns
    -------
    exposure : `lsst.images.DifferenceImage` or `None`
        Pixels without dimension and of unit variance, with mask, PSF and coordinates of the difference;
        `None` if there was no detection.
    """
    import astropy.units as u

    from lsst.images import DifferenceImage, Image

    difference, score = result.subtractedExposure, result.scoreExposure
    if score is None:
        return None

    unit = u.dimensionless_unscaled
    return DifferenceImage(
        Image(score.array, bbox=score.bbox, unit=unit),
        mask=difference.mask,
        variance=Image(np.ones_like(score.array), bbox=score.bbox, unit=unit),
        sky_projection=difference.sky_projection,
        obs_info=difference.obs_info,
        psf=difference.psf,
        detector=difference.detector,
        band=difference.band,
        kernel=getattr(difference, "kernel", None),
        templates=difference.templates,
        metadata=copy_metadata(difference),
    )
