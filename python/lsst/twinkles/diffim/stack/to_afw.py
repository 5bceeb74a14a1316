"""From exposures and tables of this package to objects of `lsst.afw`."""

from __future__ import annotations

__all__ = ("exposure_to_afw", "sources_to_afw")

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from ..adapters.masks import stack_plane_name
from .exposures import merge_planes
from .kernel_sources import set_box_footprints
from .psfs import psf_to_afw

if TYPE_CHECKING:
    from lsst.images import VisitImage

_FOOTPRINT_HALF = 10


def exposure_to_afw(exposure: VisitImage) -> Any:
    """Return an exposure as the stack's tasks take it.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure; not modified, and its pixels are copied, for the stack's tasks change their inputs.

    Returns
    -------
    exposure : `lsst.afw.image.ExposureF`
        With mask planes under afw's names, PSF, WCS, calibration, filter and, where lsst.obs.base is set up,
        visit.
    """
    from lsst.afw.image import ExposureF, FilterLabel
    from lsst.geom import Box2I, Extent2I, Point2I

    box = exposure.bbox
    result = ExposureF(Box2I(Point2I(box.x.start, box.y.start), Extent2I(box.x.size, box.y.size)))
    result.image.array[...] = exposure.image.array
    result.variance.array[...] = exposure.variance.array
    for name in exposure.mask.schema.names:
        result.mask.addMaskPlane(stack_plane_name(name))
    merge_planes(result.mask, exposure.mask)
    result.setPsf(psf_to_afw(exposure.psf, box))
    result.setWcs(exposure.sky_projection.to_legacy())
    result.setFilter(FilterLabel.fromBandPhysical(exposure.band, exposure.physical_filter))
    result.setPhotoCalib(_photo_calib(exposure))
    visit = exposure.obs_info.visit_id
    result.info.setId(int(visit) if visit is not None else 0)
    _set_visit_info(result, exposure)
    return result


def _photo_calib(exposure: VisitImage) -> Any:
    """Return the calibration; one count is one nanojansky if there is none."""
    from lsst.afw.image import PhotoCalib

    scaling = exposure.photometric_scaling
    if scaling is None:
        return PhotoCalib(1.0)
    return scaling.to_legacy_photo_calib(exposure.unit)


def _set_visit_info(result: Any, exposure: VisitImage) -> None:
    try:
        from lsst.obs.base.makeRawVisitInfoViaObsInfo import MakeRawVisitInfoViaObsInfo
    except ImportError:
        return
    result.info.setVisitInfo(MakeRawVisitInfoViaObsInfo.observationInfo2visitInfo(exposure.obs_info))


def sources_to_afw(table: Table, *, flags: Iterable[str], numbers: Iterable[str], primary: str) -> Any:
    """Return stars as a source catalogue from which the stack's subtraction can choose.

    Parameters
    ----------
    table : `astropy.table.Table`
        ``x``, ``y`` (pixels), ``flux`` and ``fluxErr`` (counts) of isolated stars.
    flags, numbers : iterable of `str`
        Columns that the choice looks at; they hold what stars have: not set, and 0.
    primary : `str`
        Column that tells primary detections; set.

    Returns
    -------
    sources : `lsst.afw.table.SourceCatalog`
        With slots for centroid and PSF flux, and footprints.
    """
    from lsst.afw.table import SourceCatalog, SourceTable

    schema = SourceTable.makeMinimalSchema()
    for name in ("stars_x", "stars_y", "stars_instFlux", "stars_instFluxErr"):
        schema.addField(name, type="D", doc="Of a star that was found on the science exposure")
    for name in ("stars_flag", "sky_source", primary, *flags):
        if name not in schema:
            schema.addField(name, type="Flag", doc="Column that a choice of stars looks at")
    for name in numbers:
        if name not in schema:
            schema.addField(name, type="D", doc="Column that a choice of stars looks at")
    aliases = schema.getAliasMap()
    for alias in ("slot_Centroid", "slot_PsfFlux", "slot_CalibFlux", "slot_ApFlux", "base_PsfFlux"):
        aliases.set(alias, "stars")
    catalog = SourceCatalog(schema)
    catalog.reserve(len(table))
    for _ in range(len(table)):
        catalog.addNew()
    for name, column in (("x", "x"), ("y", "y"), ("instFlux", "flux"), ("instFluxErr", "fluxErr")):
        catalog[f"stars_{name}"] = np.asarray(table[column], dtype=float)
    catalog[primary] = np.ones(len(table), dtype=bool)
    for name in numbers:
        catalog[name] = np.zeros(len(table))
    set_box_footprints(catalog, half=_FOOTPRINT_HALF)
    return catalog
