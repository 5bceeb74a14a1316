"""The metric of the kernel fit, what the PSF models add, and noise in the image that is convolved."""

import matching_stars as stars
import numpy as np
import pytest
from matching_stars import BASIS, SHAPE
from scipy.signal import fftconvolve

from lsst.twinkles.diffim.algorithms.fourier import stamps_from_transforms
from lsst.twinkles.diffim.algorithms.match.basis import make_alard_lupton_basis
from lsst.twinkles.diffim.algorithms.match.normal import StampNoise, build_stamp_system, take_out_noise
from lsst.twinkles.diffim.algorithms.match.prefilter import (
    PrewhiteningFilters,
    feature_covariance,
    filter_power,
    filter_stamps,
    matched_filter,
    transform_psfs,
)
from lsst.twinkles.diffim.algorithms.match.prior import (
    prior_kernel,
    prior_misfit,
    psf_prior_system,
    ridge_system,
)
from lsst.twinkles.diffim.algorithms.match.solve import choose_spatial_order, solve_kernel
from lsst.twinkles.diffim.algorithms.noise import NoiseMap
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

PLACE = {"x": np.array([100.0, 600.0]), "y": np.array([50.0, 400.0])}
CORRECTION = make_alard_lupton_basis(np.array([1.0, 2.0]), (2, 0), 13, delta=True)


def gaussian(size, sigma, dx=0.0):
    v, u = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-((u - dx) ** 2 + v**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def transform(sigma, side):
    """Transform of a Gaussian of unit sum, half plane."""
    f2 = np.fft.fftfreq(side)[:, None] ** 2 + np.fft.rfftfreq(side)[None, :] ** 2
    return np.exp(-2 * np.pi**2 * sigma**2 * f2)


def noise_map(value):
    return NoiseMap(values=np.array([[value]], float), x=np.zeros(1), y=np.zeros(1))


@pytest.mark.parametrize(("convolved", "target"), [(1.6, 2.1), (2.1, 1.6), (1.8, 1.8)])
def test_prewhitened_noise_of_the_matched_difference_is_white(convolved, target):
    flux_scale, vc, vx, side = 1.3, 30.0, 70.0, 64
    psfs = (PsfGrid.constant(gaussian(41, s)) for s in (convolved, target))
    filters = PrewhiteningFilters(*psfs, noise_map(vc), noise_map(vx))
    first, second = filters(**PLACE, side=side, flux_scale=flux_scale)
    assert first.shape == (2, side, side // 2 + 1)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first[:, 0, 0], 1.0, atol=1e-6)
    pc, px = transform(convolved, side), transform(target, side)
    known = np.minimum(pc, px) > 1e-3  # beyond, models are only rounding
    power = first[0] ** 2 * (vx + vc * (flux_scale * px / pc) ** 2)
    np.testing.assert_allclose(power[known], vx + vc * flux_scale**2, rtol=2e-3)
    assert np.ptp(first[0][known]) == pytest.approx(0.0, abs=1e-3) if convolved == target else True


def test_matched_filter_is_filter_times_kernel():
    side = 64
    psfs = [PsfGrid.constant(gaussian(41, s)) for s in (1.6, 2.1)]
    target = np.full((2, side, side // 2 + 1), 0.5 + 0.5j)
    found = matched_filter(*psfs, target, **PLACE, side=side)
    pc, px = transform(1.6, side), transform(2.1, side)
    known = px > 1e-3
    np.testing.assert_allclose(found[1][known], np.sqrt(0.5) * (px / pc)[known], rtol=2e-3)


@pytest.mark.parametrize("sizes", [(41, 41), (25, 41), (41, 25)])
def test_transforms_of_psfs_have_unit_sum_and_one_size(sizes):
    psfs = [PsfGrid.constant(gaussian(size, 1.8)) for size in sizes]
    found = transform_psfs(*psfs, **PLACE, side=64)
    for spectrum in found:
        np.testing.assert_allclose(spectrum[:, 0, 0], 1.0, rtol=1e-9)
        np.testing.assert_allclose(spectrum[0], transform(1.8, 64), atol=1e-3)


def test_psfs_go_to_zero_at_the_rim_of_their_stamp():
    v, u = np.mgrid[-15:16, -15:16]
    stamp = (1 + (u**2 + v**2) / 9.0) ** -1.5
    stamp /= stamp.sum()
    spectrum = transform_psfs(PsfGrid.constant(stamp), x=np.zeros(1), y=np.zeros(1), side=64)[0]
    found = stamps_from_transforms(spectrum, 64, 31)[0]
    rim = np.hypot(u, v) >= 14.9
    assert stamp[rim].min() > 1e-5 and np.abs(found[rim]).max() < 1e-8
    core = np.hypot(u, v) < 10
    np.testing.assert_allclose(found[core] / found[15, 15], stamp[core] / stamp[15, 15], rtol=1e-9)


@pytest.mark.parametrize("side", [48, 49])
def test_power_of_filters_and_covariance_of_features(side):
    rng = np.random.default_rng(1)
    stamp = rng.normal(size=(11, 11)) * gaussian(11, 2.0)
    spectrum = np.fft.rfft2(stamp, s=(side, side))
    assert filter_power(spectrum[None], side)[0] == pytest.approx((stamp**2).sum())
    images = CORRECTION.images()
    found = feature_covariance(images, np.abs(spectrum) ** 2)
    # The covariance of white noise seen through two stamps is the sum of their product.
    through = fftconvolve(images, stamp[None], axes=(1, 2)).reshape(len(images), -1)
    expected = through @ through.T
    np.testing.assert_allclose(found, expected, atol=1e-10 * np.abs(expected).max())
    plain = feature_covariance(images, np.ones((side, side // 2 + 1)))
    flat = images.reshape(len(images), -1)
    np.testing.assert_allclose(plain, flat @ flat.T, atol=1e-12)


def test_stamps_are_filtered_in_place():
    rng = np.random.default_rng(2)
    side, kernel = 64, gaussian(9, 1.2, dx=0.7)
    padded = np.zeros((side, side))
    padded[:9, :9] = kernel
    spectrum = np.fft.rfft2(np.roll(padded, (-4, -4), axis=(0, 1)))[None]
    raw = rng.normal(size=(3, 41, 41)).astype("f4")
    found = filter_stamps(raw, np.repeat(spectrum, 3, axis=0), side)
    assert found.shape == raw.shape and found.dtype == np.float32
    for s in range(3):
        truth = fftconvolve(raw[s], kernel, mode="same")
        np.testing.assert_allclose(found[s, 6:-6, 6:-6], truth[6:-6, 6:-6], atol=1e-5)


def coefficients_of(kernel, basis):
    """Coefficients of the basis functions, and 0 for the background."""
    flat = basis.images().reshape(len(basis), -1)
    return np.append(np.linalg.lstsq(flat.T, kernel.ravel(), rcond=None)[0], 0.0)


def prior_cost(system, coefficients):
    return float(np.einsum("i,nij,j->", coefficients, system.gram, coefficients))


def make_prior(target_psf, *, filters=None):
    side = 72
    ones = np.ones((2, side, side // 2 + 1))
    return psf_prior_system(
        PsfGrid.constant(gaussian(41, 1.6)),
        PsfGrid.constant(target_psf),
        **PLACE,
        basis=BASIS,
        filters=(ones, ones) if filters is None else filters,
        side=side,
    )


def test_prior_wants_the_shape_that_the_psfs_imply():
    kernel = 1.3 * stars.kernels(stars.true_terms(0), np.zeros(1), np.zeros(1))[0]
    true = coefficients_of(kernel, BASIS)
    matched = fftconvolve(gaussian(41, 1.6), kernel / kernel.sum(), mode="same")
    prior = make_prior(matched)
    assert len(prior) == 2 and not prior.moment.any() and not prior.gram[:, -1].any()
    # Whatever its sum.
    wrong = coefficients_of(kernel.sum() * gaussian(15, 0.9), BASIS)
    assert prior_cost(prior, true) < 1e-4 * prior_cost(prior, wrong)
    assert prior_cost(prior, 2 * true) < 1e-4 * prior_cost(prior, 2 * wrong)
    # Two stars of unit signal-to-noise: what a kernel does wrong, relative to the power of the PSF.
    error = fftconvolve(gaussian(41, 1.6), kernel.sum() * gaussian(15, 0.9), mode="same")
    error -= kernel.sum() * matched
    # Less what a shift of the PSF would explain.
    slopes, _ = np.linalg.qr(np.array(np.gradient(matched)).reshape(2, -1).T)
    left = error.ravel() - slopes @ (slopes.T @ error.ravel())
    expected = 2 * (left**2).sum() / (matched**2).sum()
    assert prior_cost(prior, wrong) == pytest.approx(expected, rel=0.02)


def test_prior_leaves_the_registration_free():
    kernel = gaussian(15, np.sqrt(2.2**2 - 1.6**2))
    prior = make_prior(gaussian(41, 2.2))
    shifted = coefficients_of(gaussian(15, np.sqrt(2.2**2 - 1.6**2), dx=0.1), BASIS)
    wider = coefficients_of(gaussian(15, np.sqrt(2.3**2 - 1.6**2)), BASIS)
    right = coefficients_of(kernel, BASIS)
    # Both change the PSF by as much: 0.1 pixels of 2.2.
    assert prior_cost(prior, shifted) - prior_cost(prior, right) < 0.05 * prior_cost(prior, wider)


def test_prior_sees_stars_through_the_filters():
    side = 72
    none = np.zeros((2, side, side // 2 + 1))
    low = none.copy()
    low[:, :2, :2] = 1.0
    wrong = coefficients_of(gaussian(15, 0.9), BASIS)
    plain = prior_cost(make_prior(gaussian(41, 2.2)), wrong)
    assert prior_cost(make_prior(gaussian(41, 2.2), filters=(low, low)), wrong) < 0.05 * plain


def test_kernel_of_the_models_and_what_it_leaves():
    kernel = 1.3 * stars.kernels(stars.true_terms(0), np.zeros(1), np.zeros(1))[0]
    true = coefficients_of(kernel, BASIS)[:-1] / kernel.sum()
    prior = make_prior(fftconvolve(gaussian(41, 1.6), kernel / kernel.sum(), mode="same"))
    found = prior_kernel(prior, np.zeros((len(BASIS), len(BASIS))))
    assert found[0] == 1.0 and prior_misfit(prior) < 1e-3
    images = BASIS.images()
    error, peak = np.tensordot(found - true, images, 1), np.tensordot(true, images, 1).max()
    assert np.abs(error).max() < 0.02 * peak
    # With noise added it is the kernel of least sum of both.
    noise = 0.01 * feature_covariance(images, np.ones((72, 37)))
    calm = prior_kernel(prior, noise)
    total = prior.gram.mean(axis=0)[:-1, :-1] + noise
    for index in range(1, len(BASIS)):
        assert abs(total[index] @ calm) < 1e-8 * total[index, index] * np.abs(calm).max()
    # No kernel of a few positive Gaussians makes a narrower PSF of a wide one without an error.
    assert prior_misfit(make_prior(gaussian(41, 1.0))) > 0.05


def test_ridge_holds_the_kernel_to_its_first_function():
    ridge = ridge_system(CORRECTION, **PLACE, strength=7.0)
    rng = np.random.default_rng(3)
    rest = np.append(rng.normal(size=len(CORRECTION)), 3.0)
    first = np.zeros(len(rest))
    first[0] = 5.0
    assert prior_cost(ridge, first) == 0.0 and not ridge.moment.any() and not ridge.power.any()
    rest[0] = 0.0
    kernel = np.tensordot(rest[:-1], CORRECTION.images(), axes=1)
    # White errors of its transform: sum of squares over that of a delta function, Parseval.
    assert prior_cost(ridge, rest) == pytest.approx(7.0**2 * (kernel**2).sum())
    assert prior_cost(ridge, rest + first) == pytest.approx(prior_cost(ridge, rest))


def noisy_fit(seed, *, noise_share, how, guess=1.0, n=120, total=1.3, sigma=1.0, flux=60.0):
    """Fit a correction between stars of two images that are alike but for noise; or return the equations."""
    rng = np.random.default_rng([seed, 5])
    half, margin = 9, CORRECTION.size // 2
    x, y = stars.positions(n, seed=seed)
    v, u = np.mgrid[-half - margin : half + margin + 1, -half - margin : half + margin + 1]
    dx, dy = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
    star = flux * np.exp(-((u - dx) ** 2 + (v - dy) ** 2) / (2 * 1.8**2)) / (2 * np.pi * 1.8**2)
    own = total * star[:, margin:-margin, margin:-margin]
    variances = noise_share * sigma**2, (1 - noise_share) * sigma**2
    convolved = star + np.sqrt(variances[0]) / total * rng.normal(size=star.shape)
    target = own + np.sqrt(variances[1]) * rng.normal(size=own.shape)
    system = build_stamp_system(
        convolved.astype("f4"), target.astype("f4"), bad=np.zeros(target.shape, bool), x=x, y=y,
        basis=CORRECTION, sky_variance=np.full(n, sigma**2), photon_variance=np.zeros(n), model_error=0.0,
        model_index=1, noise=StampNoise(sky=np.full(n, variances[0] / total**2), photon=0.0),
    )  # fmt: skip
    if how != "raw":
        covariance = feature_covariance(CORRECTION.images(), np.ones((48, 25)))
        reference = guess * total * np.eye(len(CORRECTION))[0]
        system = take_out_noise(system, covariance, reference=reference)
    if how == "equations":
        return system
    return solve_kernel(
        system, basis=CORRECTION, shape=SHAPE, kernel_order=0, background_order=0, n_required=3,
        clip_chi2=1e9, clip_flux=1e9, max_iterations=1, max_condition=1e12,
        extra=ridge_system(CORRECTION, x=np.zeros(1), y=np.zeros(1), strength=100.0),
    )  # fmt: skip


@pytest.mark.parametrize("noise_share", [0.3, 0.8])
def test_noise_of_the_template_does_not_bias_the_kernel(noise_share):
    raw, corrected = (
        [noisy_fit(seed, noise_share=noise_share, how=one) for seed in range(12)] for one in ("raw", "held")
    )
    ratio = np.array([[s.kernel_sum / 1.3 for s in fits] for fits in (raw, corrected)])
    error = ratio.std(axis=1, ddof=1) / np.sqrt(12)
    # What errors in variables are known to do: signal-to-noise 12 a star over 361 pixels of noise.
    assert ratio[0].mean() < 1 - 10 * error[0] and ratio[0].mean() < 0.95
    assert ratio[1].mean() == pytest.approx(1.0, abs=3.5 * error[1]) and error[1] < 0.02


def test_a_wrong_reference_counts_by_the_share_of_noise():
    # Held to a kernel that is off by a tenth, the sum is off by that times what the noise takes from it.
    wrong, right, raw = (
        np.mean([noisy_fit(seed, noise_share=0.3, how=how, guess=g).kernel_sum for seed in range(6)])
        for how, g in (("held", 1.1), ("held", 1.0), ("raw", 1.0))
    )
    assert (wrong - right) / 0.1 == pytest.approx(right - raw, rel=0.05)


def test_chi_square_stays_that_of_the_pixels():
    # Mean over 120 stamps of 361 pixels: a standard error of 0.7 percent.
    for share in (0.0, 0.5, 0.95):
        solution = noisy_fit(1, noise_share=share, how="held")
        assert solution.chi2.mean() == pytest.approx(1.0, abs=0.05)


def test_without_noise_the_correction_changes_nothing():
    raw, held = (noisy_fit(2, noise_share=0.0, how=how) for how in ("raw", "held"))
    np.testing.assert_allclose(held.kernel_terms, raw.kernel_terms, rtol=1e-12)
    np.testing.assert_allclose(held.chi2, raw.chi2, rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_a_kernel_that_blows_up_noise_does_not_seem_to_fit_better(seed):
    # Stars that say less than the template's noise, and no correction is the truth.
    system = noisy_fit(seed, noise_share=0.95, how="equations", flux=15.0)
    order, _, scores = choose_spatial_order(
        system, np.ones(len(system), bool), n_basis=len(CORRECTION), shape=SHAPE, orders=(0, 1, 2),
        background_order=0, n_folds=5,
        extras=[ridge_system(CORRECTION, x=np.zeros(1), y=np.zeros(1), strength=1.0)],
    )  # fmt: skip
    assert order == 0
    # Of that of the pixels, and the more free the kernel, the worse it predicts.
    assert scores[0, 0] == pytest.approx(1.0, abs=0.05) and (np.diff(scores[:, 0]) > 0).all()


def test_expected_noise_follows_weights_and_photons():
    noise = StampNoise(sky=np.array([3.0, 5.0, 7.0]), photon=0.1)
    weight, model = np.full((2, 4, 4), 0.5), np.full((2, 4, 4), 10.0)
    weight[1, 0] = 0.0  # bad pixels have no share
    expected = 16 * 0.5 * (5.0 + 0.1 * 10.0), 12 * 0.5 * (7.0 + 0.1 * 10.0)
    np.testing.assert_allclose(noise.total(weight, model, slice(1, 3)), expected)


def test_a_filter_is_a_stamp():
    # What filter_power sums is what stamps_from_transforms gives.
    spectrum = transform(1.5, 48)[None]
    stamp = stamps_from_transforms(spectrum, 48, 47)
    assert filter_power(spectrum, 48)[0] == pytest.approx((stamp**2).sum(), rel=1e-9)
