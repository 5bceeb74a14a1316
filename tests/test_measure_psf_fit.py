"""Positions and fluxes of point sources: unbiased, with true errors."""

import numpy as np
import pytest

from lsst.twinkles.diffim.algorithms.measure.psf_fit import (
    fit_point_sources,
    measure_forced_fluxes,
)
from lsst.twinkles.diffim.algorithms.measure.spline_psf import SplinePsf
from lsst.twinkles.diffim.algorithms.measure.spline_psf_nb import blend_nodes, draw_psf
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

SIGMA = 1.8
FWHM = 2.355 * SIGMA
SETTINGS = {"half": 10, "max_shift": FWHM, "link": 2 * FWHM, "most": 12, "iterations": 25, "rounds": 2}
NOISE = 5.0


def profile(shape, x, y, sigma=SIGMA):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    image = np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    return image / (2 * np.pi * sigma**2)


PSF = PsfGrid.constant(profile((31, 31), 15, 15))


def scene(shape, x, y, flux):
    image = np.zeros(shape)
    for a, b, f in zip(x, y, np.broadcast_to(flux, len(x)), strict=True):
        j, i = round(b), round(a)
        cut = np.s_[max(0, j - 16) : j + 17, max(0, i - 16) : i + 17]
        part = image[cut]
        part += f * profile(part.shape, a - max(0, i - 16), b - max(0, j - 16))
    return image


def lattice(n, step, seed):
    """Positions at random fractions of a pixel on a lattice of n x n."""
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(*[np.arange(n) * step + step / 2] * 2))
    return x + rng.uniform(-0.5, 0.5, n * n), y + rng.uniform(-0.5, 0.5, n * n)


def with_noise(image, seed):
    return image + np.random.default_rng(seed).normal(0, NOISE, image.shape)


def weights(shape):
    return np.full(shape, 1 / NOISE**2)


def draw(psf, x, y, half):
    """Return PSF and slopes on the square around the nearest pixel."""
    spline = SplinePsf.from_grid(psf, reach=half)
    nodes, shares = spline.nodes_at(x=np.array([x]), y=np.array([y]))
    local, out = np.empty_like(spline.coefficients[0]), np.empty((3, 2 * half + 1, 2 * half + 1))
    blend_nodes(spline.coefficients, nodes, shares, 0, local)
    draw_psf(local, x - round(x), y - round(y), half, np.empty((4, 4)), out)
    return out


@pytest.mark.parametrize(("dx", "dy"), [(0.3, -0.45), (-0.5, 0.1), (0.0, 0.5), (0.25, 0.0)])
@pytest.mark.parametrize("sigma", [0.9, SIGMA])
def test_drawn_psf_and_its_slopes(dx, dy, sigma):
    value, slope_x, slope_y = draw(PsfGrid.constant(profile((31, 31), 15, 15, sigma)), dx, dy, 12)
    rows, cols = np.mgrid[:25, :25]
    truth = profile((25, 25), 12 + dx, 12 + dy, sigma)
    # Pixels sample a Gaussian of 0.9 pixels width less than well: frequencies beyond theirs are lost.
    limit = (1e-2 if sigma < 1 else 1e-5) * truth.max()
    np.testing.assert_allclose(value, truth, atol=limit)
    # The derivative with respect to the position.
    np.testing.assert_allclose(slope_x, truth * (cols - 12 - dx) / sigma**2, atol=6 * limit)
    np.testing.assert_allclose(slope_y, truth * (rows - 12 - dy) / sigma**2, atol=6 * limit)


def test_drawn_psf_at_a_whole_pixel_is_the_stamp():
    stamp = np.random.default_rng(1).normal(size=(15, 15))
    np.testing.assert_allclose(draw(PsfGrid.constant(stamp), 4.0, 7.0, 7)[0], stamp, atol=1e-6)


def test_drawn_psf_between_nodes_is_bilinear():
    rng = np.random.default_rng(2)
    grid = PsfGrid(rng.normal(size=(2, 3, 9, 9)), x=np.array([0.0, 50.0, 90.0]), y=np.array([0.0, 80.0]))
    for x, y in ((17.0, 30.0), (70.0, 80.0), (95.0, -4.0)):
        np.testing.assert_allclose(draw(grid, x, y, 4)[0], grid.evaluate(x=x, y=y), atol=1e-6)


def test_sources_without_noise_are_found_exactly():
    x, y = lattice(4, 60, seed=1)
    flux = np.linspace(-5000, 5000, 16)
    image = scene((240, 240), x, y, flux)
    fits = fit_point_sources(image, weights(image.shape), PSF, x=np.round(x), y=np.round(y), **SETTINGS)
    assert not fits.failed.any()
    np.testing.assert_allclose(fits.x, x, atol=1e-4)
    np.testing.assert_allclose(fits.y, y, atol=1e-4)
    np.testing.assert_allclose(fits.flux, flux, rtol=1e-4)
    assert (fits.chi2 < 1e-3).all() and (fits.n_pixels == 21**2).all()


def test_errors_are_those_of_the_fisher_matrix():
    x, y = np.array([50.2]), np.array([49.7])
    image = scene((100, 100), x, y, 3000.0)
    fits = fit_point_sources(image, weights(image.shape), PSF, x=x, y=y, **SETTINGS)
    # White noise and a Gaussian of flux f: sigma_f^2 = 4 pi s^2 n^2, sigma_x = sqrt(8 pi) s^2 n / f.
    assert fits.flux_error[0] == pytest.approx(np.sqrt(4 * np.pi) * SIGMA * NOISE, rel=1e-3)
    expected = np.sqrt(8 * np.pi) * SIGMA**2 * NOISE / 3000.0
    assert fits.x_error[0] == pytest.approx(expected, rel=1e-3)
    assert fits.y_error[0] == pytest.approx(expected, rel=1e-3)
    assert abs(fits.xy_covariance[0]) < 1e-3 * expected**2


@pytest.fixture(scope="module")
def noisy():
    """400 sources of alternating sign and signal-to-noise 10 to 100, measured from whole pixels."""
    n = 20
    x, y = lattice(n, 40, seed=2)
    rng = np.random.default_rng(3)
    error = np.sqrt(4 * np.pi) * SIGMA * NOISE
    flux = error * 10 ** rng.uniform(1, 2, n * n) * rng.choice([-1, 1], n * n)
    image = with_noise(scene((n * 40, n * 40), x, y, flux), seed=4)
    fits = fit_point_sources(
        image,
        weights(image.shape),
        PSF,
        x=np.round(x) + rng.integers(-1, 2, n * n),
        y=np.round(y),
        **SETTINGS,
    )
    return x, y, flux, fits


def assert_pulls(pulls):
    """400 normal deviates: mean 0 to 0.05 and width 1 to 0.035; four times that."""
    assert abs(np.mean(pulls)) < 0.2
    assert abs(np.std(pulls) - 1) < 0.14
    assert np.abs(pulls).max() < 4.5


def test_pulls_of_positions_and_fluxes(noisy):
    x, y, flux, fits = noisy
    assert not fits.failed.any()
    assert_pulls((fits.x - x) / fits.x_error)
    assert_pulls((fits.y - y) / fits.y_error)
    # The centroid is where the flux is highest: a bias of one half of an error over the signal-to-noise.
    assert_pulls((fits.flux - flux) / fits.flux_error)


def test_chi_square_is_that_of_the_pixels(noisy):
    *_, fits = noisy
    reduced = fits.chi2 / (fits.n_pixels - 3)
    assert reduced.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / (400 * 441)))
    assert reduced.std() == pytest.approx(np.sqrt(2 / 438), rel=0.2)


@pytest.mark.parametrize(("separation", "rounds"), [(2.5, 2), (1.6, 1), (0.8, 1)])
def test_blended_neighbours_do_not_bias_each_other(separation, rounds):
    # 225 pairs, so many FWHM apart in all directions, of equal and unequal brightness.
    n = 15
    x, y = lattice(n, 50, seed=5)
    rng = np.random.default_rng(6)
    angle = rng.uniform(0, 2 * np.pi, n * n)
    x2, y2 = x + separation * FWHM * np.cos(angle), y + separation * FWHM * np.sin(angle)
    error = np.sqrt(4 * np.pi) * SIGMA * NOISE
    flux, flux2 = np.full(n * n, 40 * error), error * rng.choice([40, 15, -25], n * n)
    xs, ys, fluxes = np.r_[x, x2], np.r_[y, y2], np.r_[flux, flux2]
    image = with_noise(scene((n * 50, n * 50), xs, ys, fluxes), seed=7)
    settings = SETTINGS | {"rounds": rounds}
    fits = fit_point_sources(image, weights(image.shape), PSF, x=np.round(xs), y=np.round(ys), **settings)
    alone = fit_point_sources(
        image,
        weights(image.shape),
        PSF,
        x=np.round(xs),
        y=np.round(ys),
        **settings | {"rounds": 1, "link": 0.0},
    )
    pulls = (fits.flux - fluxes) / fits.flux_error
    assert abs(pulls.mean()) < 4 / np.sqrt(450) and abs(pulls.std() - 1) < 0.15
    assert abs(((fits.x - xs) / fits.x_error).std() - 1) < 0.15
    assert abs(((fits.y - ys) / fits.y_error).mean()) < 4 / np.sqrt(450)
    if separation < 2:  # without taking the neighbours away they would be wrong
        assert np.mean((alone.flux - fluxes) / alone.flux_error) > 0.5


def test_what_else_is_fitted_makes_no_difference():
    x, y = lattice(17, 30, seed=8)
    image = with_noise(scene((510, 510), x, y, 4000.0), seed=9)
    settings = SETTINGS | {"rounds": 1}
    together = fit_point_sources(image, weights(image.shape), PSF, x=x, y=y, **settings)
    last = fit_point_sources(image, weights(image.shape), PSF, x=x[-3:], y=y[-3:], **settings)
    np.testing.assert_allclose(together.x[-3:], last.x, atol=1e-9)
    np.testing.assert_allclose(together.flux[-3:], last.flux, rtol=1e-9)


def test_psf_that_varies():
    psf = PsfGrid(
        stamps=np.stack([profile((31, 31), 15, 15, s) for s in (1.5, 2.5)])[None],
        x=np.array([0.0, 299.0]),
        y=np.zeros(1),
    )
    x, y = np.array([30.3, 150.4, 270.2]), np.array([50.2, 49.6, 50.0])
    image = np.zeros((100, 300))
    for a, b in zip(x, y, strict=True):
        i = round(a)
        image[35:66, i - 15 : i + 16] += 2000.0 * draw(psf, a, b, 15)[0]
    fits = fit_point_sources(image, weights(image.shape), psf, x=np.round(x), y=np.round(y), **SETTINGS)
    np.testing.assert_allclose(fits.flux, 2000.0, rtol=3e-3)
    np.testing.assert_allclose(fits.x, x, atol=2e-3)


def test_masked_pixels_do_not_count():
    x, y = np.array([50.3]), np.array([49.8])
    image = scene((100, 100), x, y, 3000.0)
    weight = weights(image.shape)
    weight[50:53, 48] = 0
    image[50:53, 48] = np.nan
    weight[45, 52] = 0
    image[45, 52] = 1e7
    fits = fit_point_sources(image, weight, PSF, x=np.round(x), y=np.round(y), **SETTINGS | {"rounds": 1})
    assert fits.flux[0] == pytest.approx(3000, rel=1e-4)
    assert fits.x[0] == pytest.approx(x[0], abs=1e-3)
    assert fits.n_pixels[0] == 21**2 - 4
    assert fits.flux_error[0] > np.sqrt(4 * np.pi) * SIGMA * NOISE * 1.01


def test_a_source_at_the_rim_uses_the_pixels_that_are_there():
    x, y = np.array([0.2, 99.4]), np.array([40.0, 98.7])
    image = scene((100, 100), x, y, 3000.0)
    fits = fit_point_sources(image, weights(image.shape), PSF, x=np.round(x), y=np.round(y), **SETTINGS)
    np.testing.assert_allclose(fits.flux, 3000, rtol=1e-3)
    np.testing.assert_allclose(fits.x, x, atol=2e-3)
    np.testing.assert_array_equal(fits.n_pixels, [11 * 21, 11 * 11])
    assert (fits.flux_error > np.sqrt(4 * np.pi) * SIGMA * NOISE * 1.2).all()


def test_a_position_without_a_source_keeps_its_place_or_is_near():
    image = with_noise(np.zeros((300, 300)), seed=10)
    x, y = lattice(7, 42, seed=11)
    fits = fit_point_sources(image, weights(image.shape), PSF, x=x, y=y, **SETTINGS | {"max_shift": 1.0})
    assert fits.failed.sum() > 5  # noise has no centroid
    np.testing.assert_array_equal(fits.x[fits.failed], x[fits.failed])
    for name in ("x_error", "y_error", "xy_covariance"):
        assert np.isnan(getattr(fits, name)[fits.failed]).all()
        assert np.isfinite(getattr(fits, name)[~fits.failed]).all()
    moved = np.hypot(fits.x - x, fits.y - y)
    assert (moved <= 1.0).all()
    # Their flux is the one forced at the place.
    forced = measure_forced_fluxes(image, weights(image.shape), PSF, x=x, y=y, half=10)
    single = fit_point_sources(
        image, weights(image.shape), PSF, x=x, y=y, **SETTINGS | {"max_shift": 1.0, "rounds": 1}
    )
    np.testing.assert_allclose(single.flux[single.failed], forced.flux[single.failed], rtol=1e-6)
    np.testing.assert_allclose(single.flux_error[single.failed], forced.error[single.failed], rtol=1e-6)


def test_pixels_all_masked_fail_without_a_crash():
    image, weight = np.zeros((60, 60)), np.zeros((60, 60))
    fits = fit_point_sources(image, weight, PSF, x=np.array([30.0]), y=np.array([30.0]), **SETTINGS)
    assert fits.failed[0] and fits.n_pixels[0] == 0 and not np.isfinite(fits.flux[0])
    forced = measure_forced_fluxes(image, weight, PSF, x=np.array([30.0]), y=np.array([30.0]), half=10)
    assert np.isnan(forced.flux[0]) and np.isnan(forced.error[0]) and forced.n_pixels[0] == 0


def test_no_sources_make_empty_results():
    image = np.zeros((60, 60))
    nowhere = {"x": np.zeros(0), "y": np.zeros(0)}
    fits = fit_point_sources(image, weights(image.shape), PSF, **nowhere, **SETTINGS)
    assert len(fits.x) == len(fits.flux) == len(fits.failed) == 0 and fits.failed.dtype == bool
    assert len(measure_forced_fluxes(image, weights(image.shape), PSF, **nowhere, half=10).flux) == 0


def test_forced_fluxes_and_their_pulls():
    x, y = lattice(20, 40, seed=12)
    image = with_noise(scene((800, 800), x, y, 900.0), seed=13)
    forced = measure_forced_fluxes(image, weights(image.shape), PSF, x=x, y=y, half=10)
    np.testing.assert_allclose(forced.error, np.sqrt(4 * np.pi) * SIGMA * NOISE, rtol=1e-3)
    assert_pulls((forced.flux - 900.0) / forced.error)
    assert (forced.n_pixels == 441).all()


@pytest.mark.parametrize("half", [6, 15, 20])
def test_squares_smaller_and_larger_than_the_psf_stamp(half):
    x, y = np.array([50.3, 120.1]), np.array([49.8, 60.4])
    image = scene((140, 180), x, y, 3000.0)
    fits = fit_point_sources(
        image, weights(image.shape), PSF, x=np.round(x), y=np.round(y), **SETTINGS | {"half": half}
    )
    np.testing.assert_allclose(fits.flux, 3000, rtol=1e-3)
    np.testing.assert_allclose(fits.x, x, atol=1e-3)
    assert (fits.n_pixels == (2 * half + 1) ** 2).all()
