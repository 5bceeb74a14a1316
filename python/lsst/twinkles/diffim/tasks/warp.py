"""Resampling of a template onto the pixel grid of a science exposure."""

from __future__ import annotations

__all__ = ("WarpConfig", "WarpTask", "template_pixel_map")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import ChoiceField, Config, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.metadata import copy_metadata
from ..adapters.psfs import psf_from_grid, sample_psf
from ..algorithms.warp.pixel_map import PixelMap, map_nodes
from ..algorithms.warp.resample import resample_image, resample_psf

if TYPE_CHECKING:
    from lsst.images import Box, VisitImage
    from lsst.images.fields import ChebyshevField

# Nodes along an axis at which the warped PSF and the photometric scaling are known.
_PSF_NODES = 6
_SCALING_ORDER = 3


class WarpConfig(Config):
    """Configuration of `WarpTask`."""

    warpingKernelName = ChoiceField[str](
        doc="Resampling kernel.",
        default="lanczos3",
        allowed={
            "lanczos3": "Lanczos with 3 lobes: least noise correlation, least spreading of masks.",
            "lanczos4": "Lanczos with 4 lobes.",
            "lanczos5": "Lanczos with 5 lobes: most faithful to sharp images.",
        },
    )
    interpLength = RangeField[int](
        doc="Pixels between the nodes at which the WCS is evaluated; bilinear between them.",
        default=16,
        min=1,
        max=256,
    )
    significantWeight = RangeField[float](
        doc="Template pixels of a smaller absolute weight neither pass on their mask nor need data.",
        default=0.01,
        min=0.0,
        max=0.5,
    )


class WarpTask(Task):
    """Resample a template onto the pixel grid of a science exposure.

    Pixel values count as flux per pixel: they are multiplied by the ratio of
    the pixel areas.
    """

    ConfigClass = WarpConfig
    _DefaultName = "warp"
    config: WarpConfig

    def run(self, template: VisitImage, science: VisitImage) -> Struct:
        """Resample a template.

        Parameters
        ----------
        template : `lsst.images.VisitImage`
            Template; not modified.
        science : `lsst.images.VisitImage`
            Exposure whose pixel grid is wanted.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``warped`` (`lsst.images.VisitImage`): the template on the grid of
            ``science``, with the PSF, band, mask planes and photometric
            scaling it has there. Pixels without data are NaN and ``NO_DATA``.
        """
        from lsst.images import Image, Mask, VisitImage

        box = science.bbox
        pixel_map = template_pixel_map(template, science, step=self.config.interpLength)
        pixels = resample_image(
            template.image.array,
            template.variance.array,
            template.mask.array,
            pixel_map=pixel_map,
            shape=(box.y.size, box.x.size),
            order=int(self.config.warpingKernelName[-1]),
            significant_weight=self.config.significantWeight,
            valid=_has_data(template),
        )
        schema = template.mask.schema
        mask = Mask(pixels.mask, schema=schema, bbox=box)
        if "NO_DATA" not in schema.names:
            mask = mask.add_plane("NO_DATA", "No data was available for this pixel.")
        mask.set("NO_DATA", pixels.no_data)
        fraction = float(np.mean(pixels.no_data))
        self.metadata["warpedNoDataFraction"] = fraction
        self.log.info("Warped the template with %s.", self.config.warpingKernelName)
        warped = VisitImage(
            Image(pixels.image, bbox=box, unit=template.unit),
            mask=mask,
            variance=Image(pixels.variance, bbox=box, unit=template.unit**2),
            sky_projection=science.sky_projection,
            obs_info=template.obs_info,
            summary_stats=template.summary_stats,
            photometric_scaling=_warp_scaling(template, pixel_map, box),
            psf=_warp_psf(template, pixel_map, box),
            detector=science.detector,
            band=template.band,
            metadata=copy_metadata(template),
        )
        return Struct(warped=warped)


def template_pixel_map(template: VisitImage, science: VisitImage, *, step: int) -> PixelMap:
    """Find where the pixels of a science exposure lie in the array of a template.

    Parameters
    ----------
    template, science : `lsst.images.VisitImage`
        Exposures with sky projections.
    step : `int`
        Science pixels between nodes.

    Returns
    -------
    pixel_map : `~lsst.twinkles.diffim.algorithms.warp.pixel_map.PixelMap`
        From science to template array positions.
    """
    box = science.bbox
    x, y = map_nodes((box.y.size, box.x.size), step=step)
    xx, yy = np.meshgrid(x + box.x.start, y + box.y.start)
    sky = science.sky_projection.pixel_to_sky(x=xx, y=yy)
    there = template.sky_projection.sky_to_pixel(sky)
    x_in = np.reshape(there.x, xx.shape) - template.bbox.x.start
    y_in = np.reshape(there.y, yy.shape) - template.bbox.y.start
    return PixelMap(x=x_in, y=y_in, step=step)


def _has_data(template: VisitImage) -> np.ndarray | None:
    return ~template.mask.get("NO_DATA") if "NO_DATA" in template.mask.schema.names else None


def _warp_psf(template: VisitImage, pixel_map: PixelMap, box: Box):  # type: ignore[no-untyped-def]
    nodes_x = np.linspace(0, box.x.size - 1, min(_PSF_NODES, box.x.size))
    nodes_y = np.linspace(0, box.y.size - 1, min(_PSF_NODES, box.y.size))
    grid = resample_psf(sample_psf(template.psf, template.bbox), pixel_map, x=nodes_x, y=nodes_y)
    return psf_from_grid(grid, box)


def _warp_scaling(template: VisitImage, pixel_map: PixelMap, box: Box) -> ChebyshevField | None:
    """Return the photometric scaling at the template pixels that the science pixels see."""
    from lsst.images.fields import ChebyshevField

    scaling = template.photometric_scaling
    if scaling is None:
        return None
    x, y = (a.ravel() for a in np.meshgrid(*(np.linspace(0, n - 1, _PSF_NODES) for n in box.shape[::-1])))
    x_in, y_in = pixel_map.evaluate(x=x, y=y)
    area = scaling.bounds.bbox
    values = scaling(
        x=np.clip(x_in + template.bbox.x.start, area.x.min, area.x.max),
        y=np.clip(y_in + template.bbox.y.start, area.y.min, area.y.max),
    )
    order = 0 if scaling.is_constant else _SCALING_ORDER
    return ChebyshevField.fit(
        box, np.asarray(values), order, x=x + box.x.start, y=y + box.y.start, unit=scaling.unit
    )
