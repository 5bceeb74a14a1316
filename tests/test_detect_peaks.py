"""Peaks, rings around bright ones, footprints."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label, maximum_filter
from scipy.signal import fftconvolve

from lsst.twinkles.diffim.algorithms.detect.footprints import make_footprints
from lsst.twinkles.diffim.algorithms.detect.peaks import Peaks, find_peaks, suppress_rings


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 16), radius=st.integers(1, 4), threshold=st.floats(0.5, 3.0))
def test_peaks_are_the_local_extremes(seed, radius, threshold):
    image = np.random.default_rng(seed).normal(size=(30, 40)).astype("f4")
    peaks = find_peaks(image, threshold=threshold, radius=radius)
    limit = np.float32(threshold)
    truth = set()
    for sign in (1, -1):
        highest = maximum_filter(sign * image, 2 * radius + 1, mode="nearest")
        truth |= {tuple(p) for p in np.argwhere((sign * image == highest) & (sign * image > limit))}
    assert {(y, x) for y, x in zip(peaks.y, peaks.x, strict=True)} == truth and len(peaks) == len(truth)
    np.testing.assert_array_equal(peaks.significance, image[peaks.y, peaks.x])
    assert (np.diff(np.abs(peaks.significance)) <= 0).all()


def test_equal_neighbours_make_one_peak_and_nan_none():
    image = np.zeros((20, 20), "f4")
    image[5, 5:8] = 9.0
    image[15, 15] = np.nan
    peaks = find_peaks(image, threshold=5.0, radius=2)
    assert len(peaks) == 1 and (peaks.x[0], peaks.y[0]) == (5, 5)
    assert len(find_peaks(np.zeros((5, 5), "f4"), threshold=5.0, radius=2)) == 0


def ringing_psf(size=41):
    """A core with a negative ring, as whitening makes it."""
    v, u = np.mgrid[:size, :size] - size // 2
    r2 = u**2 + v**2
    stamp = np.exp(-r2 / (2 * 1.8**2)) - 0.16 * np.exp(-r2 / (2 * 3.6**2))
    return stamp / stamp.sum()


def significance_of(sources, psf, shape=(160, 160)):
    """Noise-free significance of sources (x, y, significance)."""
    pattern = fftconvolve(psf, psf[::-1, ::-1])
    pattern /= pattern.max()
    half = pattern.shape[0] // 2
    image = np.zeros((shape[0] + 2 * half, shape[1] + 2 * half))
    for x, y, s in sources:
        image[y : y + 2 * half + 1, x : x + 2 * half + 1] += s * pattern
    return image[half:-half, half:-half].astype("f4")


def find_and_suppress(sources, *, model_error=0.1, psf=None):
    psf = ringing_psf() if psf is None else psf
    peaks = find_peaks(significance_of(sources, psf), threshold=5.0, radius=2)
    kept = suppress_rings(peaks, psf, threshold=5.0, model_error=model_error)
    return peaks, kept


def test_rings_of_a_bright_source_are_dropped():
    peaks, kept = find_and_suppress([(80, 80, 500.0)])
    assert len(peaks) > 1 and (peaks.significance < 0).any()  # the ring is there
    assert [(x, y) for x, y in zip(kept.x, kept.y, strict=True)] == [(80, 80)]
    assert kept.significance[0] == pytest.approx(500.0, rel=1e-5)


@pytest.mark.parametrize("neighbour", [60.0, -60.0])
def test_a_true_neighbour_in_the_ring_is_kept(neighbour):
    # In the negative ring of a source of 300, which is -17 there.
    _, kept = find_and_suppress([(80, 80, 300.0), (88, 80, neighbour)])
    places = {(x, y): s for x, y, s in zip(kept.x, kept.y, kept.significance, strict=True)}
    near = [p for p in places if np.hypot(p[0] - 88, p[1] - 80) < 2]
    assert (80, 80) in places and len(near) == 1
    assert places[near[0]] * neighbour > 0
    # Its own significance, free of the ring.
    assert places[near[0]] == pytest.approx(neighbour, abs=12)


@pytest.mark.parametrize(("model_error", "n"), [(0.0, 2), (0.1, 2), (0.5, 1)])
def test_error_of_the_model_raises_the_threshold(model_error, n):
    psf = ringing_psf()
    share = significance_of([(80, 80, 2000.0)], psf)[80, 90]
    assert -30 < share < -20
    # Eight sigma beyond what the ring explains: more than 5 and a tenth, not half, of the ring.
    peaks = Peaks(np.array([80, 90]), np.array([80, 80]), np.array([2000.0, share - 8.0]))
    kept = suppress_rings(peaks, psf, threshold=5.0, model_error=model_error)
    assert len(kept) == n
    if n == 2:
        assert kept.significance[1] == pytest.approx(-8.0, abs=0.1)


def test_sources_far_apart_do_not_touch_each_other():
    sources = [(20, 20, 100.0), (140, 140, -7.0), (20, 140, 6.0)]
    _, kept = find_and_suppress(sources)
    assert {(x, y) for x, y in zip(kept.x, kept.y, strict=True)} >= {(x, y) for x, y, _ in sources}
    assert len(kept) == 3
    nothing = Peaks(np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    assert len(suppress_rings(nothing, ringing_psf(), threshold=5.0, model_error=0.1)) == 0


def image_of(regions, shape=(40, 50)):
    image = np.zeros(shape, "f4")
    for (y0, y1, x0, x1), value in regions:
        image[y0:y1, x0:x1] = value
    return image


def test_footprints_of_both_signs_that_touch_are_merged():
    image = image_of([((10, 14, 10, 14), 9.0), ((10, 14, 17, 21), -9.0), ((30, 33, 30, 33), 9.0)])
    merged = make_footprints(image, threshold=5.0, grow=2, merge=True)
    assert len(merged.areas) == 3  # background and two
    x, y = np.array([12, 18, 31]), np.array([12, 12, 31])
    numbers = merged.number_at(x=x, y=y, negative=np.array([False, True, False]))
    assert numbers[0] == numbers[1] != numbers[2]
    both = merged.positive | merged.negative
    assert merged.areas[numbers[0]] == both[:20].sum()
    # 4 + 4 pixels, 3 between them, 2 at each end.
    assert merged.extents[numbers[0]] == 4 + 4 + 3 + 4 and merged.extents[numbers[2]] == 7


def test_footprints_are_kept_apart_without_merging():
    image = image_of([((10, 14, 10, 14), 9.0), ((10, 14, 17, 21), -9.0)])
    apart = make_footprints(image, threshold=5.0, grow=2, merge=False)
    numbers = apart.number_at(x=np.array([12, 18]), y=np.array([12, 12]), negative=np.array([False, True]))
    assert sorted(numbers) == [1, 2]
    assert apart.areas[1] == apart.positive.sum() and apart.areas[2] == apart.negative.sum()
    np.testing.assert_array_equal(apart.extents[1:], [8, 8])


def test_a_source_whose_sign_the_ring_of_another_hides_has_a_footprint_too():
    # A negative source on a positive ring: the pixel is positive, and only that region is there.
    image = image_of([((10, 14, 10, 14), 9.0), ((30, 34, 30, 34), -9.0)])
    apart = make_footprints(image, threshold=5.0, grow=2, merge=False)
    numbers = apart.number_at(x=np.array([12, 31]), y=np.array([12, 31]), negative=np.array([True, False]))
    assert sorted(numbers) == [1, 2]


def test_regions_of_one_sign_touch_across_corners():
    image = image_of([((10, 12, 10, 12), 9.0), ((12, 14, 12, 14), 9.0)])
    assert len(make_footprints(image, threshold=5.0, grow=0, merge=True).areas) == 2


def test_growth_is_a_disc():
    image = image_of([((20, 21, 25, 26), 9.0)])
    v, u = np.mgrid[:40, :50]
    for grow in (0, 1, 2, 3):
        found = make_footprints(image, threshold=5.0, grow=grow, merge=True)
        np.testing.assert_array_equal(found.positive, np.hypot(u - 25, v - 20) <= grow + 0.5 * (grow > 0))
        assert not found.negative.any()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 16), grow=st.integers(0, 3), merge=st.booleans())
def test_areas_are_those_of_the_regions(seed, grow, merge):
    image = np.random.default_rng(seed).normal(size=(25, 30)).astype("f4")
    found = make_footprints(image, threshold=2.2, grow=grow, merge=merge)
    regions = [found.positive | found.negative] if merge else [found.positive, found.negative]
    assert len(found.areas) == 1 + sum(label(r, np.ones((3, 3)))[1] for r in regions)
    assert found.areas[1:].sum() == sum(int(r.sum()) for r in regions)
    assert (found.extents[1:] ** 2 >= found.areas[1:]).all()


def test_nothing_significant_makes_no_footprint():
    found = make_footprints(np.zeros((10, 10), "f4"), threshold=5.0, grow=2, merge=False)
    assert len(found.areas) == 1 and not found.positive.any() and not found.negative.any()
