"""Sky and noise of an image in cells."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lsst.twinkles.diffim.algorithms.noise import (
    NoiseMap,
    cell_statistics,
    fit_sky,
    measure_photon_variance,
    pixel_noise_ratio,
    sky_variance_map,
)
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.spatial import chebyshev_image
from lsst.twinkles.diffim.algorithms.subtract.matched import refine_background
from lsst.twinkles.diffim.algorithms.subtract.prepare import prepare_image
from lsst.twinkles.diffim.algorithms.threads import get_num_threads


def clipped(values):
    """Clip at 3 robust standard deviations thrice; median, scatter, number."""
    values = np.sort(values)
    for _ in range(3):
        middle = np.median(values)
        sigma = 1.4826 * np.median(np.abs(values - middle))
        kept = values[np.abs(values - middle) <= 3 * sigma]
        if len(kept) == len(values):
            break
        values = kept
    return np.median(values), sigma, len(values)


def test_cell_statistics_against_numpy():
    rng = np.random.default_rng(1)
    image = rng.normal(100, 5, (128, 192)).astype("f4")
    image[rng.uniform(size=image.shape) < 0.05] += 500
    bad = rng.uniform(size=image.shape) < 0.1
    bad[:64, :64] = True
    median, sigma, number, x, y = cell_statistics(image, bad, size=64, min_fraction=0.25)
    assert median.shape == (2, 3)
    np.testing.assert_array_equal(x, [31.5, 95.5, 159.5])
    np.testing.assert_array_equal(y, [31.5, 95.5])
    assert np.isnan(median[0, 0]) and number[0, 0] == 0
    for j in range(2):
        for i in range(3):
            if (j, i) == (0, 0):
                continue
            cell = np.s_[64 * j : 64 * j + 64, 64 * i : 64 * i + 64]
            truth = clipped(image[cell][~bad[cell]].astype(float))
            np.testing.assert_allclose((median[j, i], sigma[j, i], number[j, i]), truth, rtol=1e-5)
            assert abs(median[j, i] - 100) < 1.0  # clipped: the plain mean is 125


def test_few_good_pixels_make_no_statistics():
    image = np.ones((64, 64), "f4")
    bad = np.ones((64, 64), bool)
    bad[::4, ::4] = False  # a sixteenth is good
    assert np.isnan(cell_statistics(image, bad, size=64, min_fraction=0.1)[0][0, 0])
    assert cell_statistics(image, bad, size=64, min_fraction=0.05)[0][0, 0] == 1.0


def test_a_subset_of_a_large_cell_is_enough():
    image = np.random.default_rng(2).normal(7, 2, (512, 512)).astype("f4")
    median, sigma, number, _, _ = cell_statistics(
        image, np.zeros(image.shape, bool), size=512, min_fraction=0.1
    )
    assert 3500 < number[0, 0] <= 4200
    # Standard error of a median of 4096: 2 * 1.25 / 64 = 0.04; of a scatter from the MAD 0.037.
    assert abs(median[0, 0] - 7) < 4 * 0.04 and abs(sigma[0, 0] - 2) < 4 * 0.037


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1 << 16), n_x=st.integers(1, 4), n_y=st.integers(1, 4))
def test_noise_map_is_bilinear_and_keeps_its_rim(seed, n_x, n_y):
    rng = np.random.default_rng(seed)
    # A product of lines, on nodes that are not regular: bilinear interpolation is exact.
    x, y = np.cumsum(rng.uniform(3, 9, n_x)), np.cumsum(rng.uniform(3, 9, n_y))
    a, b = rng.uniform(0, 0.1, 2)
    noise = NoiseMap(values=(1 + a * x)[None, :] * (1 + b * y)[:, None], x=x, y=y)
    rows, cols = np.mgrid[:40, :50].astype(float)
    truth = (1 + a * np.clip(cols, x[0], x[-1])) * (1 + b * np.clip(rows, y[0], y[-1]))
    np.testing.assert_allclose(noise.evaluate(x=cols, y=rows), truth, rtol=1e-12)
    np.testing.assert_allclose(noise.image((40, 50)), truth, rtol=1e-5)
    np.testing.assert_allclose(noise.scaled(3.0).evaluate(x=cols, y=rows), 3 * truth, rtol=1e-12)
    assert noise.median == pytest.approx(np.median(noise.values))


def add_stars(image, rng, n, flux):
    rows, cols = np.mgrid[: image.shape[0], : image.shape[1]]
    for x, y in rng.uniform(0, image.shape[0], (n, 2)):
        near = np.s_[max(0, int(y) - 12) : int(y) + 13, max(0, int(x) - 12) : int(x) + 13]
        r2 = (cols[near] - x) ** 2 + (rows[near] - y) ** 2
        image[near] += rng.exponential(flux) * np.exp(-r2 / 8) / (8 * np.pi)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_sky_polynomial_is_recovered_under_stars(order):
    rng = np.random.default_rng(3)
    n_terms = (order + 1) * (order + 2) // 2
    truth = np.concatenate([[500.0], rng.normal(0, 40, n_terms - 1)])
    level = chebyshev_image(truth, shape=(512, 512), order=order)
    image = level + rng.normal(0, 10, level.shape).astype("f4")
    add_stars(image, rng, 60, 20_000)
    found = fit_sky(image, np.zeros(image.shape, bool), size=64, order=order)
    # 64 medians of 4096 pixels: 0.2 each; the stars' wings may lift the level by a few hundredths of sigma.
    np.testing.assert_allclose(found[1:], truth[1:], atol=4 * 0.2 / np.sqrt(64) * 2)
    assert -0.1 < found[0] - truth[0] < 0.05 * 10


def test_sky_of_an_image_with_too_few_cells_takes_a_lower_order():
    image = np.full((100, 100), 30.0, "f4")
    terms = fit_sky(image, np.zeros(image.shape, bool), size=64, order=2)
    assert len(terms) == 6
    np.testing.assert_allclose(terms, [30, 0, 0, 0, 0, 0], atol=1e-4)
    nothing = fit_sky(image, np.ones(image.shape, bool), size=64, order=2)
    np.testing.assert_array_equal(nothing, np.zeros(6))


def test_one_bright_cell_does_not_bend_the_sky():
    rng = np.random.default_rng(4)
    image = rng.normal(0, 1, (512, 512)).astype("f4")
    image[128:192, 128:192] += 50.0
    terms = fit_sky(image, np.zeros(image.shape, bool), size=64, order=2)
    assert np.abs(terms).max() < 0.05


def test_refined_background_is_the_difference_s_own():
    level = chebyshev_image(np.array([3.0, -2.0, 1.0, 0.5, 0.0, -0.5]), shape=(512, 512), order=2)
    difference = level + np.random.default_rng(5).normal(0, 1, level.shape).astype("f4")
    terms = refine_background(difference, np.zeros(level.shape, bool), cell=64, order=2)
    np.testing.assert_allclose(terms, [3.0, -2.0, 1.0, 0.5, 0.0, -0.5], atol=0.03)


def test_variance_of_blank_sky_ignores_sources_and_fills_empty_cells():
    variance = np.full((512, 512), 100.0, "f4")
    variance[:, 256:] = 150.0
    rng = np.random.default_rng(6)
    add_stars(variance, rng, 40, 50_000)
    bad = np.zeros(variance.shape, bool)
    bad[:256, :256] = True
    noise = sky_variance_map(variance, bad, size=256)
    np.testing.assert_allclose(noise.values[:, 1], 150, rtol=0.01)
    assert noise.values[1, 0] == pytest.approx(100, rel=0.01)
    assert noise.values[0, 0] == pytest.approx(150, rel=0.01)  # the median of the other three
    with pytest.raises(ValueError, match="no usable pixel"):
        sky_variance_map(variance, np.ones(variance.shape, bool), size=256)


def test_noise_ratio_tells_true_false_and_correlated_noise():
    rng = np.random.default_rng(7)
    image = rng.normal(0, 10, (400, 500)).astype("f4") + np.linspace(0, 300, 500, dtype="f4")
    good = np.zeros(image.shape, bool)

    def ratio(variance, image=image, bad=good):
        return pixel_noise_ratio(image, NoiseMap(np.array([[variance]]), np.zeros(1), np.zeros(1)), bad)

    # MAD of 200 000 differences that share pixels: error about 1.17 * sqrt(3/2) / sqrt(2 * 2e5) = 0.0023.
    assert ratio(100.0) == pytest.approx(1.0, abs=0.01)
    assert ratio(25.0) == pytest.approx(2.0, abs=0.02)
    smooth = (image[:, 1:] + image[:, :-1]) / 2
    assert ratio(50.0, smooth, good[:, 1:]) == pytest.approx(0.5**0.5, abs=0.01)
    assert np.isnan(ratio(100.0, bad=~good))


def test_photon_variance_is_the_slope_of_the_variance_plane():
    rng = np.random.default_rng(8)
    signal = rng.exponential(500, 20_000)
    sky = np.full(signal.shape, 400.0)
    none = np.zeros(signal.shape, bool)
    assert measure_photon_variance(signal, sky + 0.4 * signal, sky, none) == pytest.approx(0.4, rel=1e-6)
    assert measure_photon_variance(signal, sky, sky, none) == 0.0
    assert measure_photon_variance(signal, sky - 0.1 * signal, sky, none) == 0.0
    assert measure_photon_variance(signal, sky + signal, sky, ~none) == 0.0
    noisy = signal + rng.normal(0, 20, signal.shape)
    # A variance plane made of observed counts shares their noise; bright pixels only let it in a little.
    assert measure_photon_variance(noisy, sky + 0.4 * noisy, sky, none) == pytest.approx(0.4, rel=1e-6)


def test_prepared_image_is_flat_whole_and_the_input_untouched():
    rng = np.random.default_rng(9)
    image = rng.normal(1000, 10, (256, 300)).astype("f4")
    variance = np.full(image.shape, 100.0, "f4")
    holes = np.zeros(image.shape, bool)
    holes[50, 60:63] = holes[100:140, 100:140] = True
    image[holes] = np.nan
    bad = holes.copy()
    bad[200, 200] = True
    image[200, 200] = 60_000
    before = image.copy(), variance.copy()
    prepared = prepare_image(
        image,
        variance,
        bad=bad,
        holes=holes,
        saturated=bad & ~holes,
        psf=PsfGrid.constant(np.ones((3, 3)) / 9),
        sky_cell=64,
        sky_order=1,
        noise_cell=256,
    )
    flat = prepared.data.image
    assert np.isfinite(flat).all() and abs(np.median(flat)) < 0.5
    assert prepared.sky[0] == pytest.approx(1000, abs=0.5)
    assert (flat[110:130, 110:130] == 0).all()  # a wide hole takes the sky
    weights = np.array([1, 2, 3]) / 4
    np.testing.assert_allclose(
        flat[50, 60:63], (1 - weights) * flat[50, 59] + weights * flat[50, 63], rtol=1e-4
    )
    assert abs(flat[200, 200]) < 50  # saturated, but no star: interpolated
    assert (prepared.saturation.rows, prepared.saturation.cols) == ([200], [200])
    assert prepared.interpolated.sum() == 3 and prepared.interpolated[50, 60:63].all()
    assert prepared.noise_ratio == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(variance, before[1])


def test_number_of_threads_is_set_by_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", "2")
    assert get_num_threads() == 2
    monkeypatch.delenv("TWINKLES_DIFFIM_NUM_THREADS")
    assert get_num_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert get_num_threads() >= 1


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_a_number_of_threads_that_is_none_is_refused(monkeypatch, value):
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", value)
    with pytest.raises(ValueError, match=r"TWINKLES_DIFFIM_NUM_THREADS must be a positive integer.*unset it"):
        get_num_threads()
