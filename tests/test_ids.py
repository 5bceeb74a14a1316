"""Identifiers of DIA sources."""

import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsst.twinkles.diffim.pipeline.ids import (
    COUNTER_BITS,
    DETECTOR_BITS,
    VISIT_BITS,
    DiaSourceIdFactory,
    pack_visit,
    unpack_visit,
)

plain_visits = st.integers(0, 2**35 - 1)
lsst_visits = st.builds(
    lambda day, sequence: int(day.strftime("%Y%m%d")) * 100_000 + sequence,
    st.dates(datetime.date(2000, 1, 1), datetime.date(2099, 12, 31)),
    st.integers(0, 99_999),
)
visits = plain_visits | lsst_visits


def test_identifiers_fit_a_signed_64_bit_number():
    assert VISIT_BITS + DETECTOR_BITS + COUNTER_BITS == 63
    last = DiaSourceIdFactory(2099_12_31_99999, 255).make(2**COUNTER_BITS - 1)[-1]
    assert last.dtype == np.int64
    assert last > 0


@given(visits)
def test_packing_is_undone_by_unpacking(visit):
    packed = pack_visit(visit)
    assert 0 <= packed < 2**VISIT_BITS
    assert unpack_visit(packed) == visit


@settings(max_examples=50)
@given(visits, visits, st.integers(0, 255), st.integers(0, 255))
def test_two_images_share_no_identifier(visit, other_visit, detector, other_detector):
    first, second = DiaSourceIdFactory(visit, detector), DiaSourceIdFactory(other_visit, other_detector)
    low, high = sorted((first, second), key=lambda factory: factory.base)
    is_same = (visit, detector) == (other_visit, other_detector)
    assert (low.base + low.max_sources < high.base + 1) != is_same


@given(visits, st.integers(0, 255), st.integers(1, 2**COUNTER_BITS - 1))
@settings(max_examples=50)
def test_an_identifier_tells_where_it_comes_from(visit, detector, number):
    factory = DiaSourceIdFactory(visit, detector)
    assert DiaSourceIdFactory.unpack(factory() + number - 1) == (visit, detector, number)


def test_identifiers_follow_one_another_from_the_first():
    factory = DiaSourceIdFactory(230, 94)
    assert factory.make(3).tolist() == [factory(), factory() + 1, factory() + 2]
    assert len(factory.make(0)) == 0


@pytest.mark.parametrize("visit", [-1, 2**35, 2025_13_01_00001, 1999_12_31_00001, 10**14])
def test_visits_out_of_range_are_refused(visit):
    with pytest.raises(ValueError, match=f"visit must be .* got {visit}"):
        DiaSourceIdFactory(visit, 94)


@pytest.mark.parametrize("detector", [-1, 256])
def test_detectors_out_of_range_are_refused(detector):
    with pytest.raises(ValueError, match=f"detector must be in 0 .. 255 .* got {detector}"):
        DiaSourceIdFactory(230, detector)


@pytest.mark.parametrize("n", [-1, 2**COUNTER_BITS])
def test_too_many_sources_are_refused(n):
    with pytest.raises(ValueError, match="raise the detection threshold"):
        DiaSourceIdFactory(230, 94).make(n)
