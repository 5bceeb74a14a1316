"""Rows of sources on straight lines: glints are found, chance and clusters make none."""

import numpy as np
import pytest

from lsst.twinkles.diffim.algorithms.measure.rows import find_rows

LIMITS = {"radius": 500.0, "min_points": 5, "width": 2.0, "max_chance": 1e-3}


def flashes(rng, count, spacing):
    """Return a row of flashes at equal distances, measured to half a pixel."""
    angle = rng.uniform(0, np.pi)
    x0, y0 = rng.uniform(1000, 3000, 2)
    steps = spacing * (np.arange(count) - count / 2)
    return x0 + steps * np.cos(angle) + rng.normal(0, 0.5, count), y0 + steps * np.sin(angle) + rng.normal(
        0, 0.5, count
    )


@pytest.mark.parametrize(("field", "count"), [(0, 5), (100, 6), (400, 9)])
def test_rows_are_found_among_others(field, count):
    rng = np.random.default_rng(field)
    found, false = 0, 0
    for _ in range(20):
        x, y = rng.uniform(0, 4000, (2, field))
        rx, ry = flashes(rng, count, 60.0)
        row = find_rows(np.r_[x, rx], np.r_[y, ry], **LIMITS)
        members = row[field:]
        found += np.count_nonzero(members == np.bincount(members).argmax()) >= count - 1 and members.max() > 0
        false += np.count_nonzero(row[:field])
    # A row may take up what happens to lie on its line.
    assert found >= 19 and false <= 10


@pytest.mark.parametrize("field", [4, 30, 300, 3000])
def test_chance_makes_no_row(field):
    rng = np.random.default_rng(field)
    for _ in range(5):
        assert not find_rows(*rng.uniform(0, 4000, (2, field)), **LIMITS).any()


def test_a_cluster_is_no_row_and_positions_without_a_number_are_on_none():
    rng = np.random.default_rng(1)
    x, y = 500 + rng.normal(0, 15, (2, 60))
    assert not find_rows(x, y, **LIMITS).any()
    x, y = flashes(rng, 8, 50.0)
    x[2] = np.nan
    row = find_rows(x, y, **LIMITS)
    np.testing.assert_array_equal(row, [1, 1, 0, 1, 1, 1, 1, 1])
    assert not find_rows(np.empty(0), np.empty(0), **LIMITS).size


def test_two_rows_have_numbers_of_their_own():
    t = np.arange(9) * 40.0
    x, y = np.r_[1000 + t, 2000 + 0 * t], np.r_[1000 + 0.5 * t, 2000 + t]
    row = find_rows(x, y, **LIMITS)
    assert sorted(set(row)) == [1, 2] and len(set(row[:9])) == 1 and len(set(row[9:])) == 1
