"""A template on the science pixel grid: used as it is, cut, padded, shifted or resampled."""

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box
from lsst.images.fields import ChebyshevField
from lsst.pipe.base import NoWorkFound
from small_exposures import draw_stars, make_exposure, make_wcs

from lsst.twinkles.diffim.adapters.psfs import psf_sigma, sample_psf
from lsst.twinkles.diffim.tasks.errors import UnsuitableTemplateError, UnusableExposureError
from lsst.twinkles.diffim.tasks.get_template import GetCalexpAsTemplateConfig, GetCalexpAsTemplateTask

STARS = [(30.0, 40.0), (70.0, 25.0), (55.0, 75.0)]


@pytest.fixture
def science():
    return make_exposure(np.zeros((100, 110)))


def run(science, *templates, **config):
    task = GetCalexpAsTemplateTask(config=GetCalexpAsTemplateConfig())
    task.config.update(**config)
    return task.run(science, list(templates)), task


def test_same_grid_is_used_as_it_is(science):
    template = make_exposure(np.ones((100, 110)), visit=2)
    result, task = run(science, template)
    assert result.template is template
    assert result.templateId == "visit=2 detector=0 band=r"
    assert task.metadata["templateWarped"] is False


def test_larger_template_is_cut(science):
    image = np.random.default_rng(1).normal(size=(140, 150))
    template = make_exposure(image, start=(-20, -20), wcs=make_wcs(crpix=(70, 70)))
    result, _ = run(science, template)
    assert result.template.bbox == science.bbox
    np.testing.assert_array_equal(result.template.image.array, template.image.array[20:120, 20:130])
    assert not result.template.mask.get("NO_DATA").any()
    assert result.template.psf is template.psf


def test_smaller_template_is_padded_with_no_data(science):
    template = make_exposure(np.ones((50, 60)), start=(10, 20), wcs=make_wcs(crpix=(30, 40)))
    template.mask.set("BAD", template.image.array > 0)
    before = template.mask.array.copy()
    padded = run(science, template)[0].template
    inside = np.zeros((100, 110), bool)
    inside[10:60, 20:80] = True
    np.testing.assert_array_equal(padded.mask.get("NO_DATA"), ~inside)
    np.testing.assert_array_equal(padded.mask.get("BAD"), inside)
    np.testing.assert_array_equal(np.isfinite(padded.image.array), inside)
    np.testing.assert_array_equal(template.mask.array, before)


def test_whole_pixel_offset_is_cut_not_resampled(science):
    image = np.random.default_rng(2).normal(size=(100, 110))
    scaling = ChebyshevField(Box.from_shape((100, 110)), np.array([[2.0]]), unit=u.nJy / u.electron)
    template = make_exposure(image, wcs=make_wcs(crpix=(53, 48)), scaling=scaling, sigma=1.5)
    result, task = run(science, template)
    assert task.metadata["templateWarped"] is False
    # The sky at science pixel (x, y) is at template pixel (x + 3, y - 2).
    np.testing.assert_array_equal(result.template.image.array[2:, :-3], template.image.array[:-2, 3:])
    assert result.template.mask.get("NO_DATA")[:2].all() and result.template.mask.get("NO_DATA")[:, -3:].all()
    assert result.template.photometric_scaling(x=50, y=50) == 2.0
    assert psf_sigma(sample_psf(result.template.psf, science.bbox)) == pytest.approx(1.5, rel=0.02)


def test_rotated_template_is_resampled(science):
    scaling = ChebyshevField(Box.from_shape((140, 140)), np.array([[3.0]]), unit=u.nJy / u.electron)
    wcs = make_wcs(crpix=(71.3, 69.8), angle=0.6)
    sky = science.sky_projection.pixel_to_sky(
        x=np.array([s[0] for s in STARS]), y=np.array([s[1] for s in STARS])
    )
    there = list(zip(*wcs.world_to_pixel(sky), strict=True))
    template = make_exposure(
        draw_stars((140, 140), there, sigma=2.0, flux=1000.0), wcs=wcs, visit=7, scaling=scaling, band="i"
    )
    result, task = run(science, template)
    warped = result.template
    assert task.metadata["templateWarped"] is True
    truth = draw_stars((100, 110), STARS, sigma=2.0, flux=1000.0)
    good = ~warped.mask.get("NO_DATA")
    assert good.mean() > 0.95
    assert np.abs(warped.image.array - truth)[good].max() < 0.01 * truth.max()
    assert warped.sky_projection == science.sky_projection
    assert (warped.band, warped.obs_info.visit_id) == ("i", 7)
    assert warped.photometric_scaling(x=10, y=90) == pytest.approx(3.0)
    assert psf_sigma(sample_psf(warped.psf, science.bbox)) == pytest.approx(2.0, rel=0.01)


def test_pixel_scale_changes_fluxes_per_pixel_not_fluxes(science):
    wcs = make_wcs(crpix=(100.0, 100.0), scale=0.1 / 3600)
    sky = science.sky_projection.pixel_to_sky(x=50.0, y=50.0)
    x, y = wcs.world_to_pixel(sky)
    template = make_exposure(draw_stars((200, 220), [(x, y)], sigma=4.0, flux=500.0), wcs=wcs, sigma=4.0)
    warped = run(science, template)[0].template
    near = np.hypot(*(np.mgrid[:100, :110] - np.array([50, 50])[:, None, None])) < 15
    assert np.nansum(warped.image.array[near]) == pytest.approx(500.0, rel=3e-3)
    assert psf_sigma(sample_psf(warped.psf, science.bbox)) == pytest.approx(2.0, rel=0.02)


def test_masks_follow_the_sky(science):
    template = make_exposure(np.zeros((100, 110)), wcs=make_wcs(crpix=(50.5, 50.0)))
    template.mask.set("SATURATED", np.arange(11000).reshape(100, 110) == 40 * 110 + 60)
    marked = np.argwhere(run(science, template)[0].template.mask.get("SATURATED"))
    assert {(40, 59), (40, 60)} <= {tuple(p) for p in marked}
    assert set(marked[:, 0]) == {40}
    assert len(marked) <= 6


def test_first_of_several_is_used_with_a_warning(science, caplog):
    first, second = (make_exposure(np.full((100, 110), v), visit=v) for v in (2, 3))
    result, _ = run(science, first, second)
    assert result.template is first
    assert "2 templates were given; only the first is used" in caplog.text


def test_no_template(science):
    with pytest.raises(UnsuitableTemplateError, match="--templateId"):
        run(science)


@pytest.mark.parametrize("ra", [53.1, 233.0])
def test_no_overlap(science, ra):
    template = make_exposure(np.ones((100, 110)), wcs=make_wcs(ra=ra, dec=-27.4 if ra < 60 else 27.4))
    with pytest.raises(NoWorkFound, match="does not overlap"):
        run(science, template)


def test_background_is_restored_on_a_copy(science):
    from lsst.images import BackgroundMap

    backgrounds = BackgroundMap()
    field = ChebyshevField(science.bbox, np.array([[10.0, 2.0]]), unit=u.electron)
    backgrounds.add("sky", field, is_subtracted=True)
    template = make_exposure(np.ones((100, 110)), backgrounds=backgrounds)
    restored = run(science, template, doAddCalexpBackground=True)[0].template
    np.testing.assert_allclose(restored.image.array.mean(), 11.0, rtol=1e-5)
    np.testing.assert_allclose(restored.image.array[0, -1] - 11.0, 2.0, rtol=0.02)
    assert (template.image.array == 1).all()


def test_missing_background_is_named(science):
    with pytest.raises(UnusableExposureError, match="template exposure carries no subtracted background"):
        run(science, make_exposure(np.ones((100, 110))), doAddCalexpBackground=True)
