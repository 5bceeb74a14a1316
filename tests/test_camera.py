"""The one CCD: its size, its place and its scale are those of R22_S11 in the Twinkles runs."""

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box
from small_exposures import make_wcs

from lsst.twinkles.diffim.adapters.camera import (
    DETECTOR_ID,
    DETECTOR_NX,
    DETECTOR_NY,
    PIXEL_SCALE_ARCSEC,
    make_detector,
    make_sky_projection,
)


def test_detector_is_that_of_twinkles():
    detector = make_detector(visit=230)
    assert (detector.name, detector.id) == ("R22_S11", 94)
    assert detector.bbox == Box.factory[0:4072, 0:4000]
    assert (DETECTOR_NX, DETECTOR_NY, DETECTOR_ID) == (4000, 4072, 94)


def test_field_angles_follow_from_the_pixel_scale():
    """20 arcsec per millimetre and 10 micron pixels, the centre on the optical axis."""
    x, y = np.array([1999.5, 2999.5, 1999.5]), np.array([2035.5, 2035.5, 35.5])
    detector = make_detector()
    angle = detector.to_field_angle.apply_forward(x=x, y=y)
    np.testing.assert_allclose(np.degrees(angle.x) * 3600, [0.0, 1000 * PIXEL_SCALE_ARCSEC, 0.0], atol=1e-9)
    np.testing.assert_allclose(np.degrees(angle.y) * 3600, [0.0, 0.0, -2000 * PIXEL_SCALE_ARCSEC], atol=1e-9)
    plane = detector.to_focal_plane.apply_forward(x=x, y=y)
    np.testing.assert_allclose(plane.x, [0.0, 10.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(plane.y, [0.0, 0.0, -20.0], atol=1e-9)


def test_detector_of_another_size():
    bbox = Box.factory[10:266, 20:276]
    assert make_detector(7, bbox=bbox).bbox == bbox


@pytest.mark.parametrize("start", [(0, 0), (100, 2000)])
def test_sky_projection_places_the_first_pixel_of_the_box(start):
    bbox = Box.from_shape((200, 300), start=start)
    wcs = make_wcs(crpix=(11.0, 21.0), angle=0.3)  # FITS counts from 1: array pixel (10, 20)
    projection = make_sky_projection(wcs, visit=1, bbox=bbox)
    sky = projection.pixel_to_sky(x=start[1] + 10.0, y=start[0] + 20.0)
    assert sky.ra.deg == pytest.approx(53.0, abs=1e-8) and sky.dec.deg == pytest.approx(-27.4, abs=1e-8)
    neighbour = projection.pixel_to_sky(x=start[1] + 110.0, y=start[0] + 20.0)
    assert sky.separation(neighbour).to_value(u.arcsec) == pytest.approx(20.0, rel=1e-6)
