"""The detection task on white noise with sources of known signal-to-noise."""

import numpy as np
import pytest
from small_pairs import fingerprint
from white_differences import ERROR, make_white

from lsst.twinkles.diffim.adapters.masks import resolve_plane_name
from lsst.twinkles.diffim.tasks.detection import DetectionConfig, DetectionTask

SHAPE = (400, 420)


def lattice(signal_to_noise):
    """25 sources on a lattice, at random fractions of a pixel; every other one negative."""
    rng = np.random.default_rng(5)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(5) * 78 + 52, np.arange(5) * 74 + 50))
    sign = np.where(np.arange(25) % 2, -1, 1)
    return np.column_stack(
        [x + rng.uniform(-0.5, 0.5, 25), y + rng.uniform(-0.5, 0.5, 25), sign * signal_to_noise * ERROR]
    )


def nearest(table, sources):
    """Index of the detection nearest to each source, and the distance."""
    distance = np.hypot(table["x"][None, :] - sources[:, :1], table["y"][None, :] - sources[:, 1:2])
    return distance.argmin(axis=1), distance.min(axis=1)


def test_sources_of_both_signs_are_detected():
    sources = lattice(20.0)
    difference = make_white(SHAPE, sources)[0]
    before = fingerprint(difference)
    task = DetectionTask()
    result = task.run(difference)
    assert fingerprint(difference) == before
    table = result.sources
    assert len(table) == 25
    index, distance = nearest(table, sources)
    assert sorted(index) == list(range(25)) and distance.max() < 0.5
    np.testing.assert_array_equal(table["isNegative"][index], sources[:, 2] < 0)
    # The noise of a significance is 1; a centre between pixels costs up to 6 percent.
    deviation = np.abs(table["significance"][index]) - 20.0
    assert abs(deviation.mean() + 0.6) < 4 / 5 and np.abs(deviation).max() < 4.5
    assert (np.diff(np.abs(table["significance"])) <= 0).all()
    assert result.positive.sum() > 12 * 20 and result.negative.sum() > 11 * 20
    assert not (result.positive & result.negative).any()
    assert task.metadata["nPixelsDetectedPositive"] == result.positive.sum()
    assert task.metadata["nPixelsDetectedNegative"] == result.negative.sum()
    assert task.metadata["nMergedDiaSources"] == 25
    assert task.metadata["nRejectedBadMaskPlanes"] == 0
    assert len(set(table["footprint"])) == 25 and (table["nPeaks"] == 1).all()
    assert not table["isMerged"].any()
    assert (table["bboxSize"] ** 2 >= table["footprintArea"]).all()


def test_number_of_false_detections_is_that_of_the_noise():
    difference = make_white((700, 720), [], seed=2)[0]
    counts = []
    for threshold in (3.0, 4.0, 6.0):
        result = DetectionTask(config=DetectionConfig(thresholdValue=threshold)).run(difference)
        counts.append(len(result.sources))
    # Maxima of a Gaussian field smoothed by the PSF (Bardeen et al. 1986; for high peaks):
    # t exp(-t^2 / 2) / ((2 pi)^1.5 2 sigma^2) per pixel and sign, sigma that of the PSF.
    for n, t in zip(counts[:2], (3.0, 4.0), strict=True):
        expected = 2 * 700 * 720 * t * np.exp(-(t**2) / 2) / ((2 * np.pi) ** 1.5 * 2 * 2.0**2)
        assert 0.6 * expected - 3 < n < 1.6 * expected + 4 * np.sqrt(expected) + 3
    assert counts[2] == 0


def test_half_of_the_sources_at_the_threshold_are_found():
    found = []
    for seed in range(4):
        sources = lattice(5.3)
        table = DetectionTask().run(make_white(SHAPE, sources, seed=seed)[0]).sources
        found.extend(nearest(table, sources)[1] < 2 if len(table) else [False] * 25)
    # Centres between pixels lower 5.3 to 5.15 on average, a peak is found a little higher: 100 sources.
    assert 0.4 < np.mean(found) < 0.9


def test_positions_are_in_the_frame_of_the_image():
    sources = lattice(30.0)
    first, second = (
        DetectionTask().run(make_white(SHAPE, sources, start=start)[0]) for start in ((0, 0), (2000, -300))
    )
    np.testing.assert_allclose(second.sources["x"], first.sources["x"] - 300, atol=1e-3)
    np.testing.assert_allclose(second.sources["y"], first.sources["y"] + 2000, atol=1e-3)
    assert second.score.bbox.y.start == 2000
    assert str(first.sources["x"].unit) == "pix"


def detect_on_bad_pixels(sources, plane, *, half):
    """Detect with a square of bad pixels on one source; also return where that is."""
    difference = make_white(SHAPE, sources)[0]
    bad = np.zeros(SHAPE, bool)
    x, y = np.round(sources[12, :2]).astype(int)
    bad[y - half : y + half + 1, x - half : x + half + 1] = True
    difference.mask.set(resolve_plane_name(plane, difference.mask.schema), bad)
    task = DetectionTask()
    return task, task.run(difference).sources, (x, y)


@pytest.mark.parametrize("plane", ["SATURATED", "SAT_TEMPLATE", "BAD", "NO_DATA", "DETECTION_EDGE"])
def test_detections_on_bad_pixels_are_rejected(plane):
    sources = lattice(20.0)
    task, table, _ = detect_on_bad_pixels(sources, plane, half=2)
    assert nearest(table, sources[12:13])[1][0] > 2.5
    assert (nearest(table, np.delete(sources, 12, axis=0))[1] < 1).all()
    if plane == "DETECTION_EDGE":
        assert task.metadata["nRejectedBadMaskPlanes"] == 1


@pytest.mark.parametrize("plane", ["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE", "DETECTION_EDGE"])
def test_a_peak_on_one_bad_pixel_is_rejected_and_counted(plane):
    """Its neighbours tell of a peak that lies on it."""
    task, table, (x, y) = detect_on_bad_pixels(lattice(40.0), plane, half=0)
    kept = np.hypot(table["x"] - x, table["y"] - y) < 0.5
    assert not kept.any()
    assert task.metadata["nRejectedBadMaskPlanes"] >= 1


def test_pixels_that_are_not_finite_have_no_weight():
    sources = lattice(20.0)
    difference = make_white(SHAPE, sources)[0]
    difference.image.array[5:9, 7:9] = np.nan
    difference.image.array[300, 5] = np.inf
    difference.variance.array[100, 100] = 0.0
    difference.variance.array[100, 101] = np.nan
    result = DetectionTask().run(difference)
    assert np.isfinite(result.score.array).all()
    assert len(result.sources) == 25


def test_footprints_of_a_dipole_are_merged_or_not():
    sources = np.array([[200.0, 200.0, 30 * ERROR], [209.0, 200.0, -30 * ERROR]])
    difference = make_white(SHAPE, sources)[0]
    merged = DetectionTask(config=DetectionConfig(doMerge=True)).run(difference).sources
    assert len(merged) == 2 and len(set(merged["footprint"])) == 1
    assert merged["isMerged"].all() and (merged["nPeaks"] == 2).all()
    apart = DetectionTask(config=DetectionConfig(doMerge=False)).run(difference).sources
    assert len(apart) == 2 and len(set(apart["footprint"])) == 2
    assert not apart["isMerged"].any() and (apart["nPeaks"] == 1).all()


def test_growth_is_configured():
    difference = make_white(SHAPE, lattice(20.0))[0]
    areas = [
        DetectionTask(config=DetectionConfig(growFootprint=grow)).run(difference).positive.sum()
        for grow in (0, 2, 5)
    ]
    assert areas[0] < areas[1] < areas[2]


def test_an_image_without_sources_has_an_empty_table():
    result = DetectionTask(config=DetectionConfig(thresholdValue=8.0)).run(make_white((200, 200), [])[0])
    assert len(result.sources) == 0 and not result.positive.any() and not result.negative.any()
    assert {"x", "y", "significance", "isNegative", "footprint"} <= set(result.sources.colnames)
