"""Figures of quality are what they say; the verdict names what is bad."""

import numpy as np
import pytest
from lsst.images import Box, Mask
from small_pairs import make_pair
from test_detect_streaks import make_difference

from lsst.twinkles.diffim.adapters.masks import bad_pixels, difference_mask_schema
from lsst.twinkles.diffim.algorithms.report.figures import (
    circular_mean,
    describe_kernels,
    neighbour_correlation,
    residual_ratios,
)
from lsst.twinkles.diffim.algorithms.robust import robust_moments
from lsst.twinkles.diffim.tasks.assess_difference import (
    METRICS_MASK_PLANES,
    AssessDifferenceTask,
    mask_fractions,
)
from lsst.twinkles.diffim.tasks.errors import BadSubtractionError
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from lsst.twinkles.diffim.tasks.subtract_background import SubtractBackgroundTask

SHAPE = (300, 340)


def test_mask_fractions_against_plain_counts():
    rng = np.random.default_rng(1)
    mask = Mask(schema=difference_mask_schema(), bbox=Box.from_shape((50, 61)))
    for k, name in enumerate(mask.schema.names):
        mask.set(name, rng.uniform(size=(50, 61)) < 0.03 * k)
    fractions = mask_fractions(mask, METRICS_MASK_PLANES)
    assert len(fractions) == 19
    for plane in METRICS_MASK_PLANES:
        expected = bad_pixels(mask, [plane]).mean() if plane not in ("CLIPPED", "UNMASKEDNAN") else None
        if expected is not None:
            assert fractions[f"{plane.lower()}_mask_fraction"] == pytest.approx(expected), plane


def test_correlation_of_a_moving_average():
    """Of white noise averaged over two pixels along x the correlation is 1/2 along x and 0 along y."""
    rng = np.random.default_rng(2)
    white = rng.normal(size=(400, 401))
    smooth, bad = (white[:, 1:] + white[:, :-1]) / np.sqrt(2), np.zeros((400, 400), bool)
    ones = np.ones((400, 400))
    assert neighbour_correlation(white[:, 1:], ones, bad, max_pixels=10**6) == pytest.approx(0, abs=0.01)
    assert neighbour_correlation(smooth, ones, bad, max_pixels=10**6) == pytest.approx(0.25, abs=0.01)
    # Bad pixels and the variance's scale make no difference, and neither do bands.
    bad[100:300, 50:200] = True
    noisy = np.where(bad, 1e6, 7 * smooth)
    assert neighbour_correlation(noisy, 49 * ones, bad, max_pixels=80_000) == pytest.approx(0.25, abs=0.015)
    assert np.isnan(neighbour_correlation(noisy, ones, ~np.eye(400, dtype=bool), max_pixels=10**6))


def test_kernels_moments_and_directions():
    y, x = np.mgrid[:21, :21] - 10
    kernel = 1.3 * np.exp(-0.5 * ((x - 0.4) ** 2 + (y + 0.2) ** 2) / 2.0) / (4 * np.pi)
    figures = describe_kernels(np.stack([kernel, 2 * kernel, 0 * kernel]))
    np.testing.assert_allclose(figures.sums, [1.3, 2.6, 0], rtol=1e-6)
    np.testing.assert_allclose(figures.dx[:2], 0.4, rtol=1e-6)
    np.testing.assert_allclose(figures.dy[:2], -0.2, rtol=1e-6)
    assert np.isnan(figures.length[2])
    assert robust_moments(np.array([1.0, 2.0, 3.0, np.nan])) == (2.0, pytest.approx(1.4826))
    assert circular_mean(np.radians([350.0, 20.0])) == pytest.approx(np.radians(5))


@pytest.mark.parametrize("left", [0.0, 0.1, -0.3])
def test_residual_ratio_is_what_is_left_of_a_star(left):
    """For a residual that stands out of its noise; pure noise gives nothing."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:41, :41] - 20
    star = 1e5 * np.exp(-0.5 * (x**2 + y**2) / 4.0)
    noise = rng.normal(size=(41, 41))
    ratio = residual_ratios(star, left * star + noise, np.ones((41, 41)), np.zeros((41, 41), bool),
                            x=np.array([20]), y=np.array([20]), half=2)  # fmt: skip
    assert ratio[0] == pytest.approx(abs(left), abs=1e-4)


@pytest.fixture(scope="module")
def assessed():
    """A good difference, and the same spoilt in several ways, with their figures."""
    pair = make_pair(seed=4, shape=SHAPE, n_stars=40)
    result = ImageDifferenceTask().run(pair.science, pair.template)
    task = AssessDifferenceTask()

    def assess(change):
        difference = result.subtractedExposure.copy()
        change(difference)
        return task.run(difference, pair.science, kernelSources=result.selectSources).metrics

    star = pair.science.image.array - pair.sky

    def add(value):
        def change(difference):
            difference.image.array[...] += value

        return change

    def understate(difference):
        difference.variance.array[...] /= 2.0

    def smooth(difference):
        image = difference.image.array
        image[:, 1:] = (image[:, 1:] + image[:, :-1]) / np.sqrt(2)

    return result.metrics, {
        "nothing": assess(add(0.0)),
        "stars": assess(add(0.3 * star)),
        "sky": assess(add(5.0)),
        "variance": assess(understate),
        "correlation": assess(smooth),
    }


def test_a_good_difference_is_good(assessed):
    metrics, spoilt = assessed
    for figures in (metrics, spoilt["nothing"]):
        assert figures["verdict"] == "good" and figures["reasons"] == []
        assert figures["skyFluxPullStdev"] == pytest.approx(1.0, abs=0.2)
        assert abs(figures["noiseCorrelation"]) < 0.03
        assert figures["residualFootprintRatioMean"] < 0.03
        assert figures["nGoodPixels"] + figures["nBadPixels"] == SHAPE[0] * SHAPE[1]
    # The kernel takes the template's flux to that of the science image.
    assert metrics["kernelSumMean"] == pytest.approx(1.25, rel=0.02)
    assert metrics["spatialKernelSum"] == pytest.approx(metrics["kernelSumMean"], rel=1e-3)
    assert metrics["nReliableDiaSources"] <= metrics["nDiaSources"]
    for name in ("sciencePsfSize", "scienceLimitingMagnitude", "nPsfSources", "templateCoveragePercent"):
        assert name in metrics
    # Numbers of Python, which every format can hold.
    assert all(isinstance(v, bool | int | float | str | list) for v in metrics.values())


@pytest.mark.parametrize(
    ("fault", "figure", "field"),
    [
        ("stars", "residualFootprintRatioMean", "maxResidualRatio=0.05"),
        ("sky", "|skyFluxPullMean|", "maxSkyPullMean=0.25"),
        ("variance", "|skyFluxPullStdev - 1|", "maxSkyPullDeviation=0.1"),
        ("correlation", "|noiseCorrelation|", "maxNoiseCorrelation=0.1"),
    ],
)
def test_the_verdict_names_figure_value_and_limit(assessed, fault, figure, field):
    metrics = assessed[1][fault]
    assert metrics["verdict"] == "doubtful"
    (reason,) = [r for r in metrics["reasons"] if r.startswith(figure)]
    assert field in reason


def test_figures_of_spoilt_differences(assessed):
    _, spoilt = assessed
    assert spoilt["stars"]["residualFootprintRatioMean"] == pytest.approx(0.3, abs=0.03)
    assert spoilt["variance"]["skyFluxPullStdev"] == pytest.approx(np.sqrt(2), abs=0.25)
    assert spoilt["correlation"]["noiseCorrelation"] == pytest.approx(0.25, abs=0.05)


def test_an_error_keeps_what_was_made():
    pair = make_pair(seed=4, shape=SHAPE)
    config = ImageDifferenceConfig()
    config.assess.badSubtractionRatioThreshold = 0.0
    with pytest.raises(
        BadSubtractionError, match=r"badSubtractionRatioThreshold.*raiseOnBadSubtractionRatio"
    ) as caught:
        ImageDifferenceTask(config=config).run(pair.science, pair.template)
    error = caught.value
    assert error.metadata["ratio"] > error.metadata["threshold"] == 0.0
    assert error.partial_outputs.metrics["verdict"] in ("good", "doubtful")
    assert error.partial_outputs.subtractedExposure.bbox == pair.science.bbox
    config.raiseOnBadSubtractionRatio = False
    assert ImageDifferenceTask(config=config).run(pair.science, pair.template).metrics is not None


@pytest.mark.parametrize("bin_size", [32, 64])
def test_background_of_a_difference_is_that_which_was_put_there(bin_size):
    rng = np.random.default_rng(6)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    sky = 0.5 + 0.002 * x - 0.003 * y
    source = 500 * np.exp(-0.5 * ((x - 100) ** 2 + (y - 100) ** 2) / 4.0)
    difference = make_difference(sky + source + rng.normal(size=SHAPE))
    config = SubtractBackgroundTask.ConfigClass()
    config.binSize = bin_size
    result = SubtractBackgroundTask(config=config).run(difference)
    inner = np.s_[bin_size // 2 : -bin_size // 2, bin_size // 2 : -bin_size // 2]
    error = (result.background - sky)[inner]
    # Medians of bin_size^2 pixels, and a source that covers little of a cell.
    assert np.sqrt(np.mean(error**2)) < 1.6 / bin_size
    assert abs((result.difference.image.array - source).mean()) < 0.01
    assert difference.image.array.mean() == pytest.approx((sky + source).mean(), abs=0.02)


def test_tables_that_come_in_are_not_changed():
    pair = make_pair(seed=4, shape=SHAPE)
    result = ImageDifferenceTask().run(pair.science, pair.template)
    stars = result.selectSources
    before = stars.copy()
    AssessDifferenceTask().run(result.subtractedExposure, pair.science, kernelSources=stars)
    for name in stars.colnames:
        np.testing.assert_array_equal(stars[name], before[name])
    assert stars["used"].sum() == result.metrics["nKernelSourcesUsed"]
