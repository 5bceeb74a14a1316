"""A calibrated exposure of another visit as the template."""

from __future__ import annotations

__all__ = ("GetCalexpAsTemplateConfig", "GetCalexpAsTemplateTask", "restore_background")

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lsst.pex.config import Config, ConfigurableField, Field, RangeField
from lsst.pipe.base import NoWorkFound, Struct, Task

from ..adapters.metadata import copy_metadata, visit_number
from .errors import UnsuitableTemplateError, UnusableExposureError
from .warp import WarpTask, template_pixel_map

if TYPE_CHECKING:
    from lsst.images import Box, VisitImage


class GetCalexpAsTemplateConfig(Config):
    """Configuration of `GetCalexpAsTemplateTask`."""

    doAddCalexpBackground = Field[bool](
        doc="Add the background that was subtracted from the template back to it?",
        default=False,
    )
    templateBorderSize = RangeField[int](
        doc="Pixels around the science exposure within which a template still counts as overlapping it.",
        default=20,
        min=0,
    )
    gridTolerance = RangeField[float](
        doc="Largest distance in pixels between the two grids for which the template is not resampled.",
        default=1e-3,
        min=0.0,
    )
    warp: Any = ConfigurableField(doc="Resampling onto the science grid.", target=WarpTask)


class GetCalexpAsTemplateTask(Task):
    """Take a calibrated exposure of another visit as the template.

    Meant for surveys that come back to the same pointing. A template on the
    grid of the science exposure is used as it is, any other is resampled.
    """

    ConfigClass = GetCalexpAsTemplateConfig
    _DefaultName = "getCalexpAsTemplate"
    config: GetCalexpAsTemplateConfig
    warp: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("warp")

    def run(self, exposure: VisitImage, templates: Sequence[VisitImage]) -> Struct:
        """Bring the first of the candidate templates onto the science grid.

        Parameters
        ----------
        exposure : `lsst.images.VisitImage`
            Science exposure.
        templates : `~collections.abc.Sequence` [`lsst.images.VisitImage`]
            Candidates; only the first is used. They are not modified.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``template`` (`lsst.images.VisitImage`), on the pixels of
            ``exposure``, NaN and ``NO_DATA`` where it does not reach, and
            ``templateId`` (`str`), what it calls itself.

        Raises
        ------
        UnsuitableTemplateError
            If there is no template.
        lsst.pipe.base.NoWorkFound
            If the template does not overlap the science exposure.
        """
        if len(templates) == 0:
            raise UnsuitableTemplateError("No template was given; name a template exposure (--templateId).")
        if len(templates) > 1:
            self.log.warning("%d templates were given; only the first is used.", len(templates))
        template = templates[0]
        if self.config.doAddCalexpBackground:
            template = restore_background(template, "template")
        offset = self._find_grid_offset(template, exposure)
        self.metadata["templateWarped"] = offset is None
        if offset is None:
            template = self.warp.run(template, exposure).warped
        elif template.bbox != exposure.bbox or offset != (0, 0):
            template = _place(template, exposure, offset)
        return Struct(template=template, templateId=describe_exposure(template))

    def _find_grid_offset(self, template: VisitImage, exposure: VisitImage) -> tuple[int, int] | None:
        """Return the whole-pixel offset ``(dy, dx)`` of the template's grid, `None` if there is none.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            If the two do not overlap.
        """
        box, there = exposure.bbox, template.bbox
        step = max(1, -(-(max(box.shape) - 1) // 8))
        pixel_map = template_pixel_map(template, exposure, step=step)
        x, y = np.meshgrid(np.linspace(0, box.x.size - 1, 5), np.linspace(0, box.y.size - 1, 5))
        x_in, y_in = (a.reshape(x.shape) for a in pixel_map.evaluate(x=x.ravel(), y=y.ravel()))
        self._require_overlap(x_in, y_in, there)
        dx, dy = x_in - x, y_in - y
        if not (np.isfinite(dx).all() and np.isfinite(dy).all()):
            return None
        offset = (round(float(np.median(dy))), round(float(np.median(dx))))
        if max(np.abs(dy - offset[0]).max(), np.abs(dx - offset[1]).max()) > self.config.gridTolerance:
            return None
        return offset[0] + there.y.start - box.y.start, offset[1] + there.x.start - box.x.start

    def _require_overlap(self, x_in: np.ndarray, y_in: np.ndarray, box: Box) -> None:
        border = self.config.templateBorderSize
        apart = (
            not np.isfinite(x_in).any()
            or np.nanmax(x_in) < -border
            or np.nanmin(x_in) > box.x.size - 1 + border
            or np.nanmax(y_in) < -border
            or np.nanmin(y_in) > box.y.size - 1 + border
        )
        if apart:
            raise NoWorkFound(
                "The template does not overlap the science exposure on the sky; "
                "check their WCS, or choose a template of the same pointing."
            )


def restore_background(exposure: VisitImage, role: str) -> VisitImage:
    """Return a copy of an exposure with its subtracted background added back.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure with a subtracted background among its ``backgrounds``.
    role : `str`
        ``"science"`` or ``"template"``, for the error message.

    Raises
    ------
    UnusableExposureError
        If the exposure does not carry the background that was subtracted.
    """
    background = exposure.backgrounds.subtracted
    if background is None:
        raise UnusableExposureError(
            f"doAddCalexpBackground is set, but the {role} exposure carries no subtracted background; "
            "unset it (the difference fits a background of its own)."
        )
    result = exposure.copy()
    result.image.array += background.field.render(exposure.bbox, dtype=np.float32).array
    return result


def describe_exposure(exposure: VisitImage) -> str:
    """Return what an exposure calls itself (`str`): visit, detector and band."""
    return f"visit={visit_number(exposure)} detector={exposure.obs_info.detector_num} band={exposure.band}"


def _place(template: VisitImage, exposure: VisitImage, offset: tuple[int, int]) -> VisitImage:
    """Cut or pad a template of the same grid to the pixels of the science exposure.

    ``offset`` is what has to be added to a science pixel's coordinates to
    have those of the same sky in the template's frame.
    """
    from lsst.images import Box, Image, Mask, VisitImage
    from lsst.images.fields import ChebyshevField

    dy, dx = offset
    box = exposure.bbox
    wanted = Box.factory[box.y.start + dy : box.y.stop + dy, box.x.start + dx : box.x.stop + dx]
    common = wanted.intersection(template.bbox)
    target, source = common.slice_within(wanted), common.slice_within(template.bbox)
    schema = template.mask.schema
    image = np.full(box.shape, np.nan, dtype=template.image.array.dtype)
    variance = np.full(box.shape, np.nan, dtype=template.variance.array.dtype)
    image[target], variance[target] = template.image.array[source], template.variance.array[source]
    mask = Mask(schema=schema, bbox=box)
    mask.array[target] = template.mask.array[source]
    if "NO_DATA" not in schema.names:
        mask = mask.add_plane("NO_DATA", "No data was available for this pixel.")
    outside = np.ones(box.shape, dtype=bool)
    outside[target] = False
    mask.set("NO_DATA", outside)
    scaling = template.photometric_scaling
    if scaling is not None and offset != (0, 0):
        centre = float(np.asarray(scaling(x=common.x.center, y=common.y.center)))
        scaling = ChebyshevField(box, np.array([[centre]]), unit=scaling.unit)
    return VisitImage(
        Image(image, bbox=box, unit=template.unit),
        mask=mask,
        variance=Image(variance, bbox=box, unit=template.unit**2),
        sky_projection=exposure.sky_projection,
        obs_info=template.obs_info,
        summary_stats=template.summary_stats,
        photometric_scaling=scaling,
        psf=_shift_psf(template, box, offset),
        detector=exposure.detector,
        band=template.band,
        metadata=copy_metadata(template),
    )


def _shift_psf(template: VisitImage, box: Box, offset: tuple[int, int]):  # type: ignore[no-untyped-def]
    """Return the template's PSF in the frame of the science exposure."""
    from ..adapters.psfs import psf_from_grid, sample_psf
    from ..algorithms.psf_grid import PsfGrid

    if offset == (0, 0):
        return template.psf
    grid = sample_psf(template.psf, template.bbox)
    shifted = PsfGrid(
        stamps=grid.stamps,
        x=grid.x + template.bbox.x.start - offset[1] - box.x.start,
        y=grid.y + template.bbox.y.start - offset[0] - box.y.start,
    )
    return psf_from_grid(shifted, box)
