"""Registration of the template by stars (doUseRegister)."""

import numpy as np
import pytest
from small_pairs import SHAPE, make_pair

from lsst.twinkles.diffim.adapters.camera import make_sky_projection
from lsst.twinkles.diffim.adapters.read_exposure import with_sky_projection
from lsst.twinkles.diffim.tasks.errors import RegistrationFailedError
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from lsst.twinkles.diffim.tasks.register import RegisterTask


@pytest.fixture(scope="module")
def pair():
    return make_pair(seed=8, n_stars=45, n_transients=6)


def with_wrong_wcs(exposure, dx, dy):
    """Return an exposure whose WCS puts its pixels ``dx, dy`` pixels off."""
    wcs = exposure.sky_projection.as_fits_wcs(exposure.bbox).deepcopy()
    wcs.wcs.crpix = wcs.wcs.crpix + np.array([dx, dy])
    wcs.wcs.set()
    frame = exposure.sky_projection.pixel_frame
    projection = make_sky_projection(wcs, visit=frame.visit, bbox=exposure.bbox, detector_bbox=frame.bbox)
    return with_sky_projection(exposure, projection)


def place_of(exposure, science):
    """Return the pixel of an exposure that a position of the science exposure has."""
    sky = science.sky_projection.pixel_to_sky(x=np.array([150.0]), y=np.array([140.0]))
    there = exposure.sky_projection.sky_to_pixel(sky)
    return float(np.squeeze(there.x)), float(np.squeeze(there.y))


def test_the_wcs_of_the_template_is_mended(pair):
    wrong = with_wrong_wcs(pair.template, 1.7, -0.8)
    assert place_of(wrong, pair.science) == pytest.approx((151.7, 139.2), abs=0.01)
    result = RegisterTask().run(wrong, pair.science)
    assert place_of(result.registered, pair.science) == pytest.approx((150.0, 140.0), abs=0.05)
    assert result.largestShift == pytest.approx(np.hypot(1.7, 0.8), abs=0.1)
    np.testing.assert_array_equal(result.registered.image.array, wrong.image.array)


def test_a_shift_beyond_the_match_radius_is_not_believed(pair):
    config = RegisterTask.ConfigClass()
    config.matchRadius = 0.3
    with pytest.raises(RegistrationFailedError, match=r"register.matchRadius=0.3; look at the WCS") as error:
        RegisterTask(config=config).run(with_wrong_wcs(pair.template, 3.0, 0.0), pair.science)
    assert error.value.metadata["largestShift"] == pytest.approx(3.0, abs=0.2)


def test_stars_that_are_not_the_same_cannot_be_matched(pair):
    other = make_pair(seed=99, n_stars=45)
    with pytest.raises(RegistrationFailedError, match="doUseRegister=False") as error:
        RegisterTask().run(other.template, pair.science)
    assert error.value.metadata["nTemplateStars"] > 10


def test_the_whole_task_registers_where_it_is_asked(pair):
    wrong = with_wrong_wcs(pair.template, 1.7, -0.8)
    config = ImageDifferenceConfig()
    config.subtract.kernel.name = "zogy"
    config.doUseRegister = True
    task = ImageDifferenceTask(config=config)
    result = task.run(pair.science, wrong)
    assert task.getFullMetadata()["imageDifference:register"]["registerLargestShift"] == pytest.approx(
        1.88, abs=0.1
    )
    sources = result.diaSources
    for x, y, _ in pair.transients:
        assert np.hypot(np.asarray(sources["x"]) - x, np.asarray(sources["y"]) - y).min() < 0.6
    assert len(sources) <= len(pair.transients) + 2
    assert result.subtractedExposure.image.array.shape == SHAPE
