"""The last whitening: noise of a known correlation becomes white, and fluxes keep their meaning."""

import numpy as np
import pytest
from lsst.images import DifferenceImage
from scipy import ndimage
from scipy.ndimage import shift as spline_shift
from scipy.signal import fftconvolve
from small_exposures import draw_stars, make_exposure

from lsst.twinkles.diffim.adapters.psfs import sample_psf
from lsst.twinkles.diffim.algorithms.decorrelate.final_whitening import (
    find_blank_noise,
    measure_autocorrelation,
    solve_final_whitening,
    take_stripes,
    whiten_psf,
)
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.tasks.final_whitening import FinalWhiteningTask

SIZE = 400


def correlated_noise(seed=1, size=SIZE):
    """White noise through a linear interpolation half way between pixels, as resampling makes it."""
    white = np.random.default_rng(seed).normal(size=(size + 1, size + 1))
    return (white[:-1, :-1] + white[1:, :-1] + 0.5 * white[:-1, 1:] + 0.5 * white[1:, 1:]) / np.sqrt(2.5)


def test_autocorrelation_is_that_of_the_filter():
    """Of weights (1, 1) along y and (1, 1/2) along x: 1/2 and 2/5 of the variance at a lag of one."""
    noise = correlated_noise()
    blank = np.random.default_rng(2).uniform(size=noise.shape) < 0.7
    correlation = measure_autocorrelation(np.where(blank, noise, 1e9), blank, largest_lag=2)
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = np.outer([0.5, 1.0, 0.5], [0.4, 1.0, 0.4])
    np.testing.assert_allclose(correlation, expected, atol=5.0 / SIZE)


def test_noise_becomes_white():
    noise = correlated_noise()
    blank = np.ones(noise.shape, bool)
    whitening = solve_final_whitening(noise, blank, largest_lag=3, half=9)
    assert whitening.kernel.sum() == pytest.approx(1.0)
    white = whitening.apply(noise, np.zeros_like(blank))[20:-20, 20:-20]
    # The spectrum vanishes at the highest frequencies along y, which nothing can bring back: not to zero.
    left = measure_autocorrelation(white, np.ones(white.shape, bool), largest_lag=3)
    left[3, 3] = 0.0
    assert np.abs(left).max() < 0.12 < 0.5
    assert np.var(white) / np.var(noise) == pytest.approx(whitening.variance_factor, rel=0.1)


def test_mild_correlation_is_taken_out_wholly():
    rng = np.random.default_rng(5)
    kernel = np.array([[0.02, 0.08, 0.02], [0.1, 1.0, 0.1], [0.02, 0.08, 0.02]])
    noise = fftconvolve(rng.normal(size=(SIZE, SIZE)), kernel, "same")
    blank = np.ones(noise.shape, bool)
    whitening = solve_final_whitening(noise, blank, largest_lag=3, half=7)
    white = whitening.apply(noise, ~blank)[20:-20, 20:-20]
    left = measure_autocorrelation(white, np.ones(white.shape, bool), largest_lag=3)
    left[3, 3] = 0.0
    assert np.abs(left).max() < 6.0 / SIZE
    assert np.var(white) / np.var(noise) == pytest.approx(whitening.variance_factor, rel=0.01)
    # Undoes the filter: what is left of it is the filter's sum squared, over its power.
    expected = (kernel**2).sum() ** -1 * kernel.sum() ** 2
    assert 1 / whitening.variance_factor == pytest.approx(1 / expected, rel=0.02)


@pytest.mark.parametrize("correlated", [False, True])
def test_what_varies_slowly_is_no_noise(correlated):
    """Places of another sky, wider than the squares, beside noise: the filter is that of the noise."""
    rng = np.random.default_rng(8)
    kernel = np.array([[0.1, 1.0, 0.1]]) if correlated else np.ones((1, 1))
    noise = fftconvolve(rng.normal(size=(SIZE, SIZE)), kernel, "same")
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    sky = 0.5 * np.cos(2 * np.pi * x) * np.cos(2 * np.pi * y)
    blank = rng.uniform(size=noise.shape) < 0.7
    truth = solve_final_whitening(noise, blank, largest_lag=5, half=7)
    fooled = solve_final_whitening(noise + sky, blank, largest_lag=5, half=7)
    found = solve_final_whitening(noise + sky, blank, largest_lag=5, half=7, level_size=65)
    assert fooled.variance_factor > 2.0 * truth.variance_factor
    assert found.variance_factor == pytest.approx(truth.variance_factor, rel=0.25)
    np.testing.assert_allclose(found.autocorrelation, truth.autocorrelation, atol=0.006)


def test_the_mean_of_squares_takes_no_correlation_with_it():
    """Smooth noise without any sky: what the means of its squares have taken is given back."""
    noise = ndimage.gaussian_filter(np.random.default_rng(9).normal(size=(1000, 1000)), 1.5)
    blank = np.ones(noise.shape, bool)
    options = {"largest_lag": 7, "half": 7}
    truth = solve_final_whitening(noise, blank, **options).autocorrelation.sum()
    found = solve_final_whitening(noise, blank, **options, level_size=65).autocorrelation.sum()
    assert found == pytest.approx(truth, rel=0.04)


def test_psf_goes_through_the_same_filter():
    stamp = draw_stars((25, 25), [(12, 12)], sigma=2.0, flux=1.0)
    kernel = solve_final_whitening(
        correlated_noise(), np.ones((SIZE, SIZE), bool), largest_lag=3, half=7
    ).kernel
    grid = whiten_psf(PsfGrid.constant(stamp / stamp.sum()), kernel)
    assert grid.size == 39 and grid.stamps.sum() == pytest.approx(1.0)
    image = draw_stars((99, 99), [(49, 49)], sigma=2.0, flux=1.0)
    expected = fftconvolve(image, kernel, "same")[30:69, 30:69]
    np.testing.assert_allclose(grid.stamps[0, 0], expected / expected.sum(), atol=1e-6)


def test_blank_sky_leaves_out_what_stands_out():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(200, 200)) + draw_stars((200, 200), [(60, 70)], sigma=2.0, flux=300.0)
    variance = np.ones(image.shape)
    variance[150:160, 150:160] = 9.0
    image[10, 10] = np.nan
    masked = np.zeros(image.shape, bool)
    masked[100, 100] = True
    noise, blank = find_blank_noise(
        image, variance, masked, largest_ratio=2.0, sigma=1.5, threshold=4.0, grow=4
    )
    for x, y in ((60, 70), (155, 155), (10, 10), (100, 100), (103, 100)):
        assert not blank[y, x]
    assert blank[30, 150] and blank.mean() > 0.85
    assert np.std(noise[blank]) == pytest.approx(1.0, abs=0.03)


# The task --------------------------------------------------------------------------


def make_difference(image, sigma=2.0):
    visit = make_exposure(image, variance=1.0, sigma=sigma)
    return DifferenceImage(
        visit.image,
        mask=visit.mask,
        variance=visit.variance,
        sky_projection=visit.sky_projection,
        obs_info=visit.obs_info,
        psf=visit.psf,
        detector=visit.detector,
        band=visit.band,
        kernel=None,
        templates=[],
    )


def test_white_noise_is_left_alone():
    difference = make_difference(np.random.default_rng(7).normal(size=(300, 300)))
    task = FinalWhiteningTask()
    result = task.run(difference)
    assert result.whitened is difference and result.kernel is None
    assert task.metadata["noiseCorrelation"] < 0.02


def test_fluxes_and_their_errors_are_right_afterwards():
    """A star keeps its PSF flux, and PSF fluxes of blank sky scatter by what the variance plane says."""
    noise = spline_shift(np.random.default_rng(8).normal(size=(SIZE, SIZE)), (0.4, 0.3), order=1)
    noise /= noise.std()
    image = noise + draw_stars((SIZE, SIZE), [(200, 210)], sigma=2.0, flux=5000.0)
    image[50, 60] = np.nan
    difference = make_difference(image)
    difference.mask.set("NO_DATA", ~np.isfinite(image))
    whitened = FinalWhiteningTask().run(difference).whitened
    assert np.isnan(whitened.image.array[50, 60]) and np.isnan(whitened.image.array).sum() == 1
    psf = sample_psf(whitened.psf, whitened.bbox, grid=1).stamps[0, 0]
    half = psf.shape[0] // 2
    weights = psf / (psf**2).sum()

    def flux(exposure, x, y):
        return (exposure.image.array[y - half : y + half + 1, x - half : x + half + 1] * weights).sum()

    error = np.sqrt(float(np.median(whitened.variance.array)) / (psf**2).sum())
    assert flux(whitened, 200, 210) == pytest.approx(5000.0, abs=4 * error)
    places = [(x, y) for x in range(40, 360, 16) for y in range(40, 360, 16)]
    places = [
        p for p in places if np.hypot(p[0] - 200, p[1] - 210) > 50 and np.hypot(p[0] - 60, p[1] - 50) > 40
    ]
    scatter = np.std([flux(whitened, x, y) for x, y in places])
    assert scatter / error == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(places)))
    assert difference.variance.array[0, 0] == 1.0, "the difference itself is not modified"


def test_stripes_of_a_large_image_tell_the_same():
    rng = np.random.default_rng(6)
    image = rng.normal(size=(900, 300)) + 0.1 * np.arange(900)[:, None]
    variance, masked = np.full(image.shape, 2.0), np.zeros(image.shape, bool)
    stripes = take_stripes(image, variance, masked, max_pixels=60_000, seam=3)
    assert stripes[0].shape == (200, 300) and stripes[2][:3].all() and stripes[2][47:53].all()
    assert not stripes[2][3:47].any()
    np.testing.assert_array_equal(stripes[0][50:100], image[283:333])  # the second of four, evenly apart
    np.testing.assert_array_equal(stripes[0][150:], image[850:])
    small = take_stripes(image, variance, masked, max_pixels=200_000, seam=3)
    assert small[0] is image and small[2] is masked
