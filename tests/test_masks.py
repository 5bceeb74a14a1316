import numpy as np
import pytest
from lsst.images import Box, Mask, MaskPlane, MaskSchema

from lsst.twinkles.diffim.adapters.masks import (
    bad_pixels,
    difference_mask_schema,
    planes_in_use,
    resolve_plane_name,
    set_plane,
    visit_mask_schema,
)


@pytest.mark.parametrize(
    "old, new",
    [
        ("SAT", "SATURATED"),
        ("EDGE", "DETECTION_EDGE"),
        ("INTRP", "INTERPOLATED"),
        ("CR", "COSMIC_RAY"),
        ("UNMASKEDNAN", "UNMASKED_NAN"),
        ("FAKE", "INJECTED"),
        ("NO_DATA", "NO_DATA"),
        ("SATURATED", "SATURATED"),
    ],
)
def test_old_names_resolve(old, new):
    assert resolve_plane_name(old, difference_mask_schema()) == new
    assert resolve_plane_name(old) == new


def test_a_schema_with_old_names_keeps_them():
    schema = MaskSchema([MaskPlane("SAT", "saturated")])
    assert resolve_plane_name("SAT", schema) == "SAT"


def test_unknown_plane_is_named_with_the_choices():
    with pytest.raises(ValueError, match=r"'STAURATED' is not known.*SATURATED"):
        resolve_plane_name("STAURATED", visit_mask_schema())


def test_bad_pixels_over_more_than_one_byte():
    schema = difference_mask_schema()
    assert schema.mask_size > 1
    mask = Mask(0, schema=schema, bbox=Box.factory[10:14, 20:25])
    for index, name in enumerate(("SATURATED", "UNMASKED_NAN", "STREAK")):
        marked = np.zeros((4, 5), dtype=bool)
        marked[index, index] = True
        mask.set(name, marked)
    bad = bad_pixels(mask, ["SAT", "STREAK", "INJECTED"])
    assert bad.dtype == bool
    assert sorted(zip(*np.nonzero(bad), strict=True)) == [(0, 0), (2, 2)]
    assert not bad_pixels(mask, []).any()


def test_schemas_hold_what_the_stages_use():
    assert {"SATURATED", "NO_DATA", "BAD", "DETECTION_EDGE", "DETECTED"} <= visit_mask_schema().names
    assert {"DETECTED_NEGATIVE", "SAT_TEMPLATE", "SENSOR_EDGE"} <= difference_mask_schema().names
    assert visit_mask_schema().names <= difference_mask_schema().names


def test_planes_are_set_and_found_as_by_the_mask_itself():
    rng = np.random.default_rng(8)
    mask = Mask(schema=difference_mask_schema(), bbox=Box.factory[3:10, 5:17])
    assert planes_in_use(mask) == []
    truth = mask.copy()
    for name in ("BAD", "SAT_TEMPLATE", "STREAK"):  # of different bytes
        pixels = rng.uniform(size=mask.bbox.shape) < 0.3
        set_plane(mask, name, pixels)
        truth.set(name, pixels)
    np.testing.assert_array_equal(mask.array, truth.array)
    assert set(planes_in_use(mask)) == {"BAD", "SAT_TEMPLATE", "STREAK"}


@pytest.mark.parametrize("planes", [["BAD"], ["SAT", "STREAK", "NO_DATA"], []])
def test_bad_pixels_are_those_of_the_planes_however_the_mask_lies_in_memory(planes):
    rng = np.random.default_rng(2)
    schema = difference_mask_schema()
    whole = Mask(schema=schema, bbox=Box.factory[0:20, 0:30])
    for name in schema.names:
        whole.set(name, rng.uniform(size=(20, 30)) < 0.1)
    part = whole[Box.factory[3:17, 4:21]]  # a view: not contiguous
    for mask in (whole, part):
        expected = np.zeros(mask.bbox.shape, bool)
        for name in planes:
            expected |= mask.get(resolve_plane_name(name, schema))
        np.testing.assert_array_equal(bad_pixels(mask, planes), expected)
