"""Masks that are copied by the byte."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lsst.images import Box, Mask, MaskPlane, MaskSchema

from lsst.twinkles.diffim.adapters import mask_update

PLANES = [MaskPlane(f"P{k}", "") for k in range(30)]
ORIGINAL = Mask.update


@pytest.fixture(autouse=True)
def restored():
    yield
    Mask.update = ORIGINAL
    mask_update._originals.clear()


def make_mask(seed, order, dtype, start=(0, 0)):
    rng = np.random.default_rng(seed)
    schema = MaskSchema([PLANES[k] for k in order], dtype=dtype)
    box = Box.factory[start[0] : start[0] + 6, start[1] : start[1] + 7]
    mask = Mask(0, schema=schema, bbox=box)
    for k in order:
        mask.set(PLANES[k].name, rng.uniform(size=(6, 7)) < 0.3)
    return mask


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    orders=st.tuples(*[st.permutations(range(30)).map(lambda p: p[:17])] * 2),
    dtypes=st.tuples(*[st.sampled_from([np.uint8, np.int32])] * 2),
    start=st.sampled_from([(0, 0), (0, 0), (2, -3)]),
)
def test_it_is_what_the_library_does(seed, orders, dtypes, start):
    ours, theirs = (make_mask(seed, orders[0], dtypes[0]) for _ in range(2))
    other = make_mask(seed + 1, orders[1], dtypes[1], start)
    ORIGINAL(theirs, other)
    mask_update.copy_masks_by_bytes()
    ours.update(other)
    np.testing.assert_array_equal(ours.array, theirs.array)


def test_it_is_installed_once():
    mask_update.copy_masks_by_bytes()
    mask_update.copy_masks_by_bytes()
    assert mask_update._originals == [ORIGINAL] and Mask.update is mask_update.update_mask
