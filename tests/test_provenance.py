"""What a difference image says about where it came from."""

import uuid

import numpy as np
import pytest
from lsst.daf.butler import DataCoordinate, DatasetRef, DatasetType, DimensionUniverse
from lsst.images import Box, DifferenceImage
from small_exposures import make_exposure, make_wcs

from lsst.twinkles.diffim.pipeline.provenance import describe_template, make_provenance, template_info

UNIVERSE = DimensionUniverse()


@pytest.fixture
def template_ref():
    dataset_type = DatasetType("calexp", ("instrument", "visit", "detector"), "VisitImage", universe=UNIVERSE)
    data_id = DataCoordinate.standardize(
        instrument="TwinklesCam", visit=250, detector=94, dimensions=dataset_type.dimensions
    )
    return DatasetRef(dataset_type, data_id, run="TwinklesCam/calexp", id=uuid.UUID(int=7))


def make_difference(**kwargs):
    science = make_exposure(np.zeros((60, 80)), visit=230, **kwargs)
    return DifferenceImage(
        science.image,
        mask=science.mask,
        variance=science.variance,
        obs_info=science.obs_info,
        psf=science.psf,
        detector=science.detector,
        band="r",
    )


def area(polygon):
    """Return the area of a polygon by the shoelace formula."""
    x, y = np.asarray(polygon.x_vertices), np.asarray(polygon.y_vertices)
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def test_the_template_is_named(template_ref):
    info = describe_template(make_difference(), make_exposure(np.zeros((60, 80)), visit=250), template_ref)
    assert (info.dataset_id, info.dataset_run) == (template_ref.id, "TwinklesCam/calexp")
    assert (info.skymap, info.tract, info.patch, info.instrument) == ("visit", 250, 94, "TwinklesCam")


def test_a_difference_keeps_its_template_on_disk(template_ref, tmp_path):
    difference = make_difference()
    info = describe_template(difference, make_exposure(np.zeros((60, 80)), visit=250), template_ref)
    difference.templates = [info]
    difference.write(str(tmp_path / "difference.fits"))
    (back,) = DifferenceImage.read(str(tmp_path / "difference.fits")).templates
    assert back.dataset_id == template_ref.id
    assert back.tract == 250
    assert area(back.bounds) == pytest.approx(60 * 80)


def test_moments_are_those_of_the_psf_on_the_science_grid(template_ref):
    sigma = 2.0
    same = describe_template(
        make_difference(), make_exposure(np.zeros((60, 80)), sigma=sigma, visit=250), template_ref
    )
    # The stamp cuts the Gaussian at 6 sigma; its pixels add nothing, as it is sampled and not integrated.
    assert (same.psf_shape_xx, same.psf_shape_yy) == pytest.approx((sigma**2, sigma**2), rel=1e-3)
    assert same.psf_shape_xy == pytest.approx(0.0, abs=1e-6)
    assert not same.psf_shape_flag
    coarse = make_wcs(scale=0.4 / 3600)
    template = make_exposure(np.zeros((60, 80)), sigma=sigma, visit=250, wcs=coarse)
    twice = describe_template(make_difference(), template, template_ref)
    assert (twice.psf_shape_xx, twice.psf_shape_yy) == pytest.approx((4 * sigma**2, 4 * sigma**2), rel=1e-3)


def test_bounds_are_where_the_template_reaches(template_ref):
    # 20 columns to the right: the template covers the columns from 20 to 79.
    template = make_exposure(np.zeros((60, 80)), visit=250, wcs=make_wcs(crpix=(30.0, 50.0)))
    info = describe_template(make_difference(), template, template_ref)
    assert area(info.bounds) == pytest.approx(60 * 60, rel=1e-3)
    assert np.min(info.bounds.x_vertices) == pytest.approx(19.5, abs=0.01)


def test_a_rotated_template_covers_a_polygon(template_ref):
    template = make_exposure(
        np.zeros((60, 60)), visit=250, wcs=make_wcs(crpix=(30.5, 30.5), angle=np.radians(45))
    )
    science = make_difference(wcs=make_wcs(crpix=(40.5, 30.5)))
    info = describe_template(science, template, template_ref)
    # A square of 60 on its tip reaches 42.4 from its centre: cut above and below, 30 from it.
    tip = 30 * np.sqrt(2)
    expected = 60**2 - 2 * (tip - 30) ** 2 - 2 * max(tip - 40, 0) ** 2
    assert area(info.bounds) == pytest.approx(expected, rel=1e-3)


def test_missing_moments_are_flagged(template_ref):
    info = template_info(template_ref, bounds=Box.from_shape((10, 20)), psf_moments=(1.0, np.nan, 0.0))
    assert info.psf_shape_flag
    assert template_info(template_ref, bounds=Box.from_shape((10, 20))).psf_shape_flag
    assert area(info.bounds) == pytest.approx(200)


def test_inputs_are_listed_once_each_with_their_data_id(template_ref):
    (simple,) = make_provenance([template_ref]).inputs
    assert simple.id == template_ref.id
    assert simple.run == "TwinklesCam/calexp"
    assert simple.dataId.dataId == {"instrument": "TwinklesCam", "visit": 250, "detector": 94}
