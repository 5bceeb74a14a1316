"""The Twinkles camera in a registry."""

import pytest
from lsst.daf.butler import Butler
from lsst.pipe.base import Instrument

from lsst.twinkles.diffim.adapters import camera
from lsst.twinkles.diffim.pipeline.instrument import DETECTOR_MAX, VISIT_MAX, TwinklesCam


@pytest.fixture
def butler(tmp_path):
    Butler.makeRepo(tmp_path / "repo")
    with Butler.from_config(tmp_path / "repo", writeable=True) as butler:
        yield butler


def test_registers_one_ccd_and_six_filters(butler):
    TwinklesCam().register(butler.registry)
    (detector,) = butler.query_dimension_records("detector", instrument="TwinklesCam")
    assert (detector.id, detector.full_name, detector.raft, detector.name_in_raft) == (
        94,
        "R22_S11",
        "R22",
        "S11",
    )
    filters = butler.query_dimension_records("physical_filter", instrument="TwinklesCam")
    assert {f.name: f.band for f in filters} == {band: band for band in "ugrizy"}


def test_registering_twice_changes_nothing(butler):
    TwinklesCam().register(butler.registry)
    before = butler.query_dimension_records("instrument")
    TwinklesCam().register(butler.registry)
    assert butler.query_dimension_records("instrument") == before


def test_registry_leads_back_to_the_class(butler):
    TwinklesCam().register(butler.registry)
    assert type(Instrument.fromName("TwinklesCam", butler.registry)) is TwinklesCam


def test_ranges_hold_visits_of_lsst_and_its_detectors():
    assert VISIT_MAX > 2035_12_31_99999
    assert camera.DETECTOR_ID < DETECTOR_MAX


def test_geometry_is_that_of_the_twinkles_ccd():
    box = camera.make_detector().bbox
    assert (box.x.size, box.y.size) == (4000, 4072)


def test_raw_images_are_refused_with_the_way_out():
    with pytest.raises(NotImplementedError, match=r"ingestExposures\.py"):
        TwinklesCam().getRawFormatter({})
