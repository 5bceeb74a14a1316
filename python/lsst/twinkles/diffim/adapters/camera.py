"""Geometry of the one CCD that Twinkles simulates, and its `Detector` value.

The numbers are those of sensor R22_S11 at the centre of the LSST focal plane
as the Twinkles runs used it: 4000 x 4072 pixels of 10 micron, 20 arcsec per
millimetre. This module knows nothing of a Butler, so that file readers and
the simulator can use it.
"""

from __future__ import annotations

__all__ = (
    "BANDS",
    "DETECTOR_ID",
    "DETECTOR_NAME",
    "DETECTOR_NX",
    "DETECTOR_NY",
    "INSTRUMENT_NAME",
    "NAME_IN_RAFT",
    "PIXEL_SCALE_ARCSEC",
    "PIXEL_SIZE_MM",
    "RAFT_NAME",
    "make_detector",
    "make_sky_projection",
)

import astropy.units as u
import numpy as np
from astropy.wcs import WCS

from lsst.images import Box, DetectorFrame, SkyProjection
from lsst.images.cameras import (
    CameraFrameSet,
    CameraFrameSetSerializationModel,
    Detector,
    DetectorAttributes,
    DetectorType,
    Orientation,
)

INSTRUMENT_NAME = "TwinklesCam"
DETECTOR_ID = 94
"""Number of R22_S11 in the numbering of LSSTCam."""
RAFT_NAME = "R22"
NAME_IN_RAFT = "S11"
DETECTOR_NAME = f"{RAFT_NAME}_{NAME_IN_RAFT}"
DETECTOR_NX = 4000
DETECTOR_NY = 4072
PIXEL_SCALE_ARCSEC = 0.2
PIXEL_SIZE_MM = 0.01
BANDS = ("u", "g", "r", "i", "z", "y")

# The framework builds a camera from afw objects only; its serialised form, in
# the AST library's own text encoding, is the public way to make one from
# numbers. Frame 1 is the focal plane; each map leads from it to another frame.
_AST_FRAME = """\
    Frm{number} =
       Begin Frame
          Ident = "{ident}"
       IsA Object
          Naxes = 2
          Domain = "{domain}"
          Ax1 =
             Begin Axis
                Unit = "{unit}"{range1}
             End Axis
          Ax2 =
             Begin Axis
                Unit = "{unit}"{range2}
             End Axis
       End Frame
"""
_AST_RANGE = "\n                Top = {stop}\n                Bottom = {start}"
_AST_MAPS = """\
    Map2 =
       Begin ZoomMap
          Nin = 2
       IsA Mapping
          Zoom = {radian_per_mm!r}
       End ZoomMap
    Map3 =
       Begin WinMap
          Nin = 2
       IsA Mapping
          Sft1 = {centre_x!r}
          Scl1 = {pixel_per_mm!r}
          Sft2 = {centre_y!r}
          Scl2 = {pixel_per_mm!r}
       End WinMap
 End FrameSet
"""


def make_detector(
    visit: int | None = None,
    *,
    bbox: Box | None = None,
    number: int = DETECTOR_ID,
    name: str = DETECTOR_NAME,
    serial: str | None = None,
) -> Detector:
    """Make the detector that images of this package carry.

    Parameters
    ----------
    visit : `int`, optional
        Visit whose geometry this is; `None` for the nominal geometry.
    bbox : `lsst.images.Box`, optional
        Pixels of the detector where they are not those of R22_S11 (images of
        other cameras, or small simulated fields).
    number : `int`, optional
        Its number in its camera.
    name, serial : `str`, optional
        Its name, and what is written on it (the name if not given).

    Returns
    -------
    detector : `lsst.images.cameras.Detector`
        One science CCD without amplifiers (the images are assembled), centred
        on the optical axis: pixels, focal plane in mm, field angle in radian.
    """
    if bbox is None:
        bbox = Box.factory[0:DETECTOR_NY, 0:DETECTOR_NX]
    centre_x, centre_y = _centre(bbox)
    attributes = DetectorAttributes(
        name=name,
        id=number,
        type=DetectorType.SCIENCE,
        serial=name if serial is None else serial,
        bbox=bbox,
        orientation=Orientation(
            focal_plane_x=0.0,
            focal_plane_y=0.0,
            focal_plane_z=0.0,
            pixel_reference_x=centre_x,
            pixel_reference_y=centre_y,
        ),
        pixel_size=PIXEL_SIZE_MM,
        physical_type="simulated",
    )
    return Detector(attributes, amplifiers=[], frames=_make_frames(bbox, number), visit=visit)


def make_sky_projection(
    wcs: WCS, *, visit: int | None, bbox: Box, detector_bbox: Box | None = None
) -> SkyProjection[DetectorFrame]:
    """Attach a FITS WCS to the pixels of this detector.

    Parameters
    ----------
    wcs : `astropy.wcs.WCS`
        Celestial WCS of an array whose first pixel is the first of ``bbox``
        (FITS pixel 1, 1).
    visit : `int` or `None`
        Visit the image belongs to.
    bbox : `lsst.images.Box`
        Pixels of the image.
    detector_bbox : `lsst.images.Box`, optional
        Pixels of the whole detector; those of the image if not given.

    Returns
    -------
    projection : `lsst.images.SkyProjection`
        Projection between pixels of ``bbox`` and ICRS coordinates.
    """
    frame = DetectorFrame(
        instrument=INSTRUMENT_NAME,
        visit=visit,
        detector=DETECTOR_ID,
        bbox=bbox if detector_bbox is None else detector_bbox,
    )
    return SkyProjection.from_fits_wcs(wcs, frame, pixel_bounds=bbox, x0=bbox.x.start, y0=bbox.y.start)


def _centre(bbox: Box) -> tuple[float, float]:
    """Return the (x, y) position of the middle of a box."""
    return (bbox.x.start + bbox.x.stop - 1) / 2, (bbox.y.start + bbox.y.stop - 1) / 2


def _make_frames(bbox: Box, detector: int) -> CameraFrameSet:
    """Make the coordinate frames of a camera of one centred CCD."""
    centre_x, centre_y = _centre(bbox)
    radian_per_mm = float(np.radians(PIXEL_SCALE_ARCSEC / PIXEL_SIZE_MM / 3600.0))
    frames = (
        ("FOCAL_PLANE", "FOCAL_PLANE", u.mm, "", ""),
        ("FIELD_ANGLE", "FIELD_ANGLE", u.rad, "", ""),
        (
            f"DETECTOR_{detector}",
            "PIXELS",
            u.pix,
            _AST_RANGE.format(start=bbox.x.start, stop=bbox.x.stop),
            _AST_RANGE.format(start=bbox.y.start, stop=bbox.y.stop),
        ),
    )
    text = " Begin FrameSet\n    Nframe = 3\n    Currnt = 3\n    Lnk2 = 1\n    Lnk3 = 1\n"
    for number, (ident, domain, unit, range1, range2) in enumerate(frames, start=1):
        text += _AST_FRAME.format(
            number=number,
            ident=ident,
            domain=domain,
            unit=unit.to_string(),
            range1=range1,
            range2=range2,
        )
    text += _AST_MAPS.format(
        radian_per_mm=radian_per_mm, centre_x=centre_x, centre_y=centre_y, pixel_per_mm=1.0 / PIXEL_SIZE_MM
    )
    # The archive argument is for pixel data stored beside the tree; there is none.
    return CameraFrameSetSerializationModel(instrument=INSTRUMENT_NAME, ast=text).deserialize(None)  # type: ignore[arg-type]
