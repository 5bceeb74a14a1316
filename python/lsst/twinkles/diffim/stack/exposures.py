"""Between the exposures of `lsst.afw` and those of `lsst.images`.

Pixels are shared, not copied, where the types allow it. What an afw exposure holds beyond the pixels and
the PSF (calibration, WCS, filter, visit, detector, aperture corrections) stays with a copy of the afw
exposure, into which the results are put; nothing of it has to survive a conversion.
"""

from __future__ import annotations

__all__ = (
    "box_from_afw",
    "mask_from_afw",
    "merge_planes",
    "plane_pixels",
    "put_pixels",
    "visit_image_from_afw",
)

from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.wcs import WCS

from ..adapters.camera import make_detector
from ..adapters.masks import difference_mask_schema, resolve_plane_name, stack_plane_name
from .psfs import AfwPsf

if TYPE_CHECKING:
    from lsst.images import Box, DetectorFrame, Mask, SkyProjection, VisitImage

_UNKNOWN_INSTRUMENT = "unknown"
_ARBITRARY_SCALE = 0.2 / 3600.0


def box_from_afw(bbox: Any) -> Box:
    """Return the pixels of an `lsst.geom.Box2I` (`lsst.images.Box`)."""
    from lsst.images import Box

    return Box.factory[bbox.getMinY() : bbox.getMaxY() + 1, bbox.getMinX() : bbox.getMaxX() + 1]


def plane_pixels(mask: Any, name: str) -> np.ndarray:
    """Return where a plane of an `lsst.afw.image.Mask` is set, ``(Ny, Nx)``, bool; nowhere if it has none."""
    if name not in mask.getMaskPlaneDict():
        return np.zeros(mask.array.shape, dtype=bool)
    return (mask.array & mask.getPlaneBitMask(name)) != 0


def mask_from_afw(mask: Any) -> Mask:
    """Return the planes of an `lsst.afw.image.Mask` that this package knows.

    Parameters
    ----------
    mask : `lsst.afw.image.Mask`
        Mask; not modified.

    Returns
    -------
    mask : `lsst.images.Mask`
        Planes of a difference image and of source injection, under the names of `lsst.images`; a copy.
    """
    from lsst.images import Mask, MaskSchema, get_legacy_optional_mask_planes

    planes = [*difference_mask_schema(), *get_legacy_optional_mask_planes().values()]
    result = Mask(schema=MaskSchema(planes), bbox=box_from_afw(mask.getBBox()))
    for old in mask.getMaskPlaneDict():
        try:
            new = resolve_plane_name(old)
        except ValueError:  # planes that only cameras or projects know have no part in a subtraction
            continue
        if new in result.schema.names:
            pixels = plane_pixels(mask, old)
            if pixels.any():
                result.set(new, result.get(new) | pixels)
    return result


def merge_planes(target: Any, source: Mask, *, skip: tuple[str, ...] = ()) -> None:
    """Set in an `lsst.afw.image.Mask` what is set in an `lsst.images.Mask`.

    Parameters
    ----------
    target : `lsst.afw.image.Mask`
        Mask to which bits are added; planes that it lacks are added with them.
    source : `lsst.images.Mask`
        Mask on the same pixels.
    skip : `tuple` [`str`, ...], optional
        Planes (names of `lsst.images`) that stay as they are.
    """
    for name in source.schema.names:
        if name in skip:
            continue
        pixels = source.get(name)
        if pixels.any():
            old = stack_plane_name(name)
            target.addMaskPlane(old)
            target.array[pixels] |= np.asarray(target.getPlaneBitMask(old), dtype=target.array.dtype)


def visit_image_from_afw(exposure: Any, *, name: str, unit: u.UnitBase = u.electron) -> VisitImage:
    """Return an exposure of `lsst.afw` in the form that the tasks of this package take.

    Parameters
    ----------
    exposure : `lsst.afw.image.ExposureF`
        Exposure; shares its image and variance pixels with the result.
    name : `str`
        What it is (``"science"``, ``"template"``), for messages.
    unit : `astropy.units.UnitBase`, optional
        Unit of the pixels. Results are given in it: fluxes of the result are instrumental ones, for the
        calibration stays with the afw exposure.

    Returns
    -------
    exposure : `lsst.images.VisitImage`
        Its PSF evaluates the afw PSF. The sky projection is that of the exposure, or an arbitrary one if it
        has none.

    Raises
    ------
    ValueError
        If the exposure has no PSF.
    """
    from lsst.images import Image, VisitImage

    box = box_from_afw(exposure.getBBox())
    psf = exposure.getPsf()
    if psf is None:
        raise ValueError(f"The {name} exposure has no PSF; attach one with setPsf().")
    instrument, visit, detector_number = _identify(exposure)
    label = exposure.getFilter()
    band = (label.bandLabel if label is not None and label.hasBandLabel() else None) or "unknown"
    physical = label.physicalLabel if label is not None and label.hasPhysicalLabel() else None
    return VisitImage(
        Image(exposure.image.array, bbox=box, unit=unit),
        mask=mask_from_afw(exposure.mask),
        variance=Image(exposure.variance.array, bbox=box, unit=unit**2),
        sky_projection=_sky_projection(exposure, box, instrument, visit, detector_number),
        obs_info=ObservationInfo(
            instrument=instrument,
            visit_id=visit,
            detector_num=detector_number,
            physical_filter=physical or band,
        ),
        psf=AfwPsf(psf, box),
        detector=make_detector(visit, bbox=box),
        band=band,
    )


def _identify(exposure: Any) -> tuple[str, int, int]:
    """Return instrument, visit and detector, with stand-ins for what is not there."""
    info, detector = exposure.info.getVisitInfo(), exposure.getDetector()
    instrument = info.getInstrumentLabel() if info is not None else ""
    visit = info.getId() if info is not None else 0
    return instrument or _UNKNOWN_INSTRUMENT, int(visit), detector.getId() if detector is not None else 0


def _sky_projection(
    exposure: Any, box: Box, instrument: str, visit: int, detector: int
) -> SkyProjection[DetectorFrame]:
    from lsst.images import DetectorFrame, SkyProjection

    frame = DetectorFrame(instrument=instrument, visit=visit, detector=detector, bbox=box)
    wcs = exposure.getWcs()
    if wcs is not None:
        return SkyProjection.from_legacy(wcs, frame, pixel_bounds=box)
    # The form of an exposure demands one; positions on the sky are never taken from this.
    arbitrary = WCS(naxis=2)
    arbitrary.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    arbitrary.wcs.cdelt = [-_ARBITRARY_SCALE, _ARBITRARY_SCALE]
    arbitrary.wcs.crpix = [box.x.size / 2, box.y.size / 2]
    return SkyProjection.from_fits_wcs(arbitrary, frame, pixel_bounds=box, x0=box.x.start, y0=box.y.start)


def put_pixels(exposure: Any, image: np.ndarray, variance: np.ndarray) -> None:
    """Overwrite image and variance of an afw exposure."""
    exposure.image.array[...] = image
    exposure.variance.array[...] = variance
