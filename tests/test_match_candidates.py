"""Choice of the stamps that determine the kernel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter, uniform_filter

from lsst.twinkles.diffim.algorithms.match.candidates import (
    KernelCandidates,
    find_candidates,
    select_candidates,
    select_in_cells,
    share_among_cells,
)

ALL = {"cell_size": 64, "per_cell": -1, "separation": 1.0, "max_number": -1}


def make(x, y, flux=None):
    x, y = np.asarray(x), np.asarray(y)
    return KernelCandidates(x=x, y=y, flux=np.ones(len(x)) if flux is None else np.asarray(flux, float))


def test_found_are_the_local_maxima_above_the_threshold():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(80, 100)).astype("f4")
    found = find_candidates(image, threshold=4.0, border=6)
    sums = 9 * uniform_filter(image.astype(float), 3)
    truth = (image == maximum_filter(image, 3)) & (sums >= 4.0)
    truth[:6] = truth[-6:] = truth[:, :6] = truth[:, -6:] = False
    assert {(y, x) for y, x in zip(found.y, found.x, strict=True)} == {tuple(p) for p in np.argwhere(truth)}
    assert len(found) == truth.sum() > 10
    np.testing.assert_allclose(found.flux, sums[found.y, found.x], atol=1e-4)


def test_a_plateau_counts_once():
    image = np.zeros((20, 20), "f4")
    image[9:11, 9:11] = 5.0
    found = find_candidates(image, threshold=1.0, border=2)
    assert len(found) == 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 16),
    n=st.integers(0, 80),
    per_cell=st.integers(-1, 4),
    separation=st.floats(1.0, 20.0),
)
def test_cells_hold_few_and_bright_ones(seed, n, per_cell, separation):
    rng = np.random.default_rng(seed)
    candidates = make(rng.integers(0, 128, n), rng.integers(0, 96, n), rng.exponential(size=n))
    chosen = select_in_cells(candidates, cell_size=32, per_cell=per_cell, separation=separation)
    kept = candidates.take(chosen)
    assert (np.diff(kept.flux) <= 0).all()
    cells = list(zip(kept.y // 32, kept.x // 32, strict=True))
    if per_cell >= 0:
        assert all(cells.count(c) <= per_cell for c in cells)
    apart = np.maximum(np.abs(kept.x[:, None] - kept.x), np.abs(kept.y[:, None] - kept.y)).astype(float)
    np.fill_diagonal(apart, np.inf)
    assert len(kept) < 2 or apart.min() >= separation
    # Each one left out has a reason among brighter ones that were kept: a full cell or a near neighbour.
    for i in set(range(n)) - set(chosen.tolist()):
        brighter = kept.flux >= candidates.flux[i]
        near = np.maximum(np.abs(kept.x - candidates.x[i]), np.abs(kept.y - candidates.y[i])) < separation
        cell = (kept.y // 32 == candidates.y[i] // 32) & (kept.x // 32 == candidates.x[i] // 32)
        assert (near & brighter).any() or (per_cell >= 0 and (cell & brighter).sum() >= per_cell)


def test_stamps_must_lie_inside_and_on_good_pixels():
    bad = np.zeros((100, 120), bool)
    bad[50, 60] = True
    x = np.array([60, 62, 63, 9, 10, 109, 110, 60, 60])
    y = np.array([50, 50, 50, 50, 50, 50, 50, 9, 90])
    found = make(x, y)
    kept = select_candidates(found, bad=bad, half=10, core=2, max_bad_fraction=0.1, **ALL)
    # 60 and 62 have the bad pixel in their core; 9, 110 and the rows 9 and 90 are too near to the rim.
    assert {(a, b) for a, b in zip(kept.x, kept.y, strict=True)} == {(63, 50), (10, 50), (109, 50)}
    strict = select_candidates(found, bad=bad, half=10, core=2, max_bad_fraction=0.0, **ALL)
    assert set(strict.x) == {10, 109}


def test_share_of_bad_pixels_in_the_stamp():
    bad = np.zeros((60, 60), bool)
    bad[:, 36:] = True  # 5 of the 21 columns of the stamp at 30
    found = make([30], [30])
    for limit, n in ((0.2, 0), (0.3, 1)):
        assert len(select_candidates(found, bad=bad, half=10, core=3, max_bad_fraction=limit, **ALL)) == n


def test_the_brightest_are_kept():
    found = make(np.arange(20, 80, 4), np.full(15, 30), np.arange(15))
    kept = select_candidates(
        found, bad=np.zeros((60, 100), bool), half=5, core=1, max_bad_fraction=0.0, **ALL | {"max_number": 4}
    )
    np.testing.assert_array_equal(kept.flux, [14, 13, 12, 11])
    none = select_candidates(
        found, bad=np.zeros((60, 100), bool), half=5, core=1, max_bad_fraction=0.0, **ALL | {"max_number": 0}
    )
    assert len(none) == 0


@pytest.mark.parametrize(
    "shape, per_cell, expected",
    [((256, 256), 5, 25), ((257, 256), 5, 17), ((1024, 1024), 5, 5), ((60, 60), 5, 100), ((60, 60), -1, -1)],
)
def test_few_cells_hold_more_each(shape, per_cell, expected):
    assert share_among_cells(shape, cell_size=128, per_cell=per_cell, least=100) == expected
