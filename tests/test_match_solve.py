"""The kernel's normal equations and their solution, on stamps whose kernel is known."""

import matching_stars as stars
import numpy as np
import pytest
from matching_stars import BASIS, SHAPE, SIGMA
from scipy.signal import fftconvolve

from lsst.twinkles.diffim.algorithms.match.normal import concatenate, sky_system
from lsst.twinkles.diffim.algorithms.match.solve import (
    KernelSolveError,
    choose_spatial_order,
    solve_kernel,
)
from lsst.twinkles.diffim.algorithms.match.stamps_nb import convolve_stamps
from lsst.twinkles.diffim.algorithms.spatial import chebyshev_terms

SETTINGS = {
    "basis": BASIS,
    "shape": SHAPE,
    "n_required": 3,
    "clip_chi2": 4.0,
    "clip_flux": 4.0,
    "max_iterations": 5,
    "max_condition": 1e14,
}
BACKGROUND = np.array([5.0, -2.0, 1.0])


def make_system(n, terms, *, noise=0.0, flux=20_000.0, seed=0, noise_seed=0, change=None, **kwargs):
    """Return stamp system, positions and their true backgrounds; ``change`` scales target stamps."""
    x, y = stars.positions(n, seed=seed)
    rng = np.random.default_rng([seed, noise_seed, 1])
    convolved = stars.stars(n, flux=flux, seed=seed)
    target = stars.match(convolved, stars.kernels(terms, x, y))
    if change is not None:
        target = target * change[:, None, None]
    background = chebyshev_terms(x=x, y=y, shape=SHAPE, order=1) @ BACKGROUND
    target = target + background[:, None, None] + rng.normal(0, 1, target.shape) * noise
    return stars.system_of(convolved, target, x, y, variance=max(noise, 1.0) ** 2, **kwargs)


def matched_profiles(kernels):
    v, u = np.mgrid[-12:13, -12:13]
    star = np.exp(-(u**2 + v**2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    return fftconvolve(kernels, star[None], axes=(1, 2))


def test_stamps_are_convolved_with_every_function():
    rng = np.random.default_rng(1)
    pixels = rng.normal(size=(2, 29, 29)).astype("f4")
    out = np.ones((2, len(BASIS), 11, 11), "f4")
    convolve_stamps(0, len(pixels), pixels, 5, BASIS.factors, BASIS.row, BASIS.column, out)
    for s in range(2):
        for b in range(len(BASIS)):
            function = np.outer(BASIS.factors[BASIS.column[b]], BASIS.factors[BASIS.row[b]])
            truth = fftconvolve(pixels[s], function, mode="same")[9:-9, 9:-9]
            np.testing.assert_allclose(out[s, b], truth, atol=1e-6)


def test_normal_equations_are_weighted_sums_over_good_pixels():
    x, y = stars.positions(2)
    convolved = stars.stars(2, flux=100.0).astype("f4")
    rng = np.random.default_rng(2)
    target = rng.normal(size=(2, 21, 21)).astype("f4")
    bad = rng.uniform(size=target.shape) < 0.2
    system = stars.system_of(convolved, target, x, y, variance=4.0, bad=bad)
    h = BASIS.size // 2
    for s in range(2):
        features = [fftconvolve(convolved[s], b, mode="same")[h:-h, h:-h] for b in BASIS.images()]
        features = np.array([*features, np.ones((21, 21))])[:, ~bad[s]]
        data = target[s][~bad[s]].astype(float)
        gram = features @ features.T / 4.0
        scale = np.sqrt(np.diag(gram))
        pairs = scale[:, None] * scale
        np.testing.assert_allclose(system.gram[s] / pairs, gram / pairs, atol=3e-5)  # single precision
        np.testing.assert_allclose(system.moment[s] / scale, features @ data / 4.0 / scale, atol=2e-5)
        assert system.power[s] == pytest.approx((data**2).sum() / 4.0, rel=1e-6)
        assert system.n_pixels[s] == (~bad[s]).sum()


def test_weights_fall_with_the_photon_noise_and_the_model_error():
    terms = stars.true_terms(0)
    flat, photon, model = (
        make_system(1, terms, flux=1e5, **extra) for extra in ({}, {"photon": 1.0}, {"model_error": 0.01})
    )
    # The constant feature's sum is the sum of the weights.
    weights = [s.gram[0, -1, -1] for s in (flat, photon, model)]
    assert weights[0] == pytest.approx(441, rel=1e-5)
    assert weights[1] < 0.9 * weights[0] and weights[2] < 0.9 * weights[0]


@pytest.mark.parametrize("order", [0, 1, 2])
def test_noiseless_stars_give_the_kernel_back(order):
    terms = stars.true_terms(order)
    solution = solve_kernel(make_system(60, terms), kernel_order=order, background_order=1, **SETTINGS)
    assert solution.used.all()
    assert solution.kernel_sum == pytest.approx(stars.KERNEL_SUM, rel=1e-4)
    np.testing.assert_allclose(solution.background_terms, BACKGROUND, atol=1e-3)
    x, y = stars.positions(30, seed=9)  # elsewhere than the stars of the fit
    truth, found = stars.kernels(terms, x, y), solution.evaluate(x=x, y=y)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), stars.KERNEL_SUM, rtol=1e-4)
    matched = matched_profiles(truth)
    error = np.abs(matched_profiles(found) - matched).max(axis=(1, 2))
    assert (error < 1e-4 * matched.max(axis=(1, 2))).all()


def test_the_kernel_of_the_solution_is_made_of_its_terms():
    terms = stars.true_terms(1)
    solution = solve_kernel(make_system(40, terms), kernel_order=1, background_order=0, **SETTINGS)
    x, y = np.array([100.0, 700.0]), np.array([50.0, 400.0])
    np.testing.assert_allclose(
        solution.evaluate(x=x, y=y), stars.kernels(solution.kernel_terms, x, y), atol=1e-12
    )
    assert solution.coefficient_matrices().shape == (len(BASIS), 2, 2)


def formal_errors(system_size, terms, *, noise, flux):
    """Standard errors of kernel sum and background from the design matrix of all pixels, written out."""
    x, y = stars.positions(system_size)
    convolved = stars.stars(system_size, flux=flux)
    functions = BASIS.images()
    values = chebyshev_terms(x=x, y=y, shape=SHAPE, order=1)
    normal = 0.0
    for s in range(system_size):
        images = stars.match(np.repeat(convolved[s : s + 1], len(BASIS), axis=0), functions)
        images = images.reshape(len(BASIS), -1)
        varying = (images[1:, None] * values[s][None, :, None]).reshape(-1, images.shape[1])
        sky = np.repeat(values[s][:, None], images.shape[1], axis=1)
        design = np.vstack([images[:1], varying, sky]) / noise
        normal = normal + design @ design.T
    errors = np.sqrt(np.diag(np.linalg.inv(normal)))
    return errors[0], errors[-3:]


def test_kernel_from_noisy_stars_is_right_within_its_errors():
    terms = stars.true_terms(1)
    noise, flux, n, n_seeds = 5.0, 8000.0, 40, 40
    sums, backgrounds, chi2 = [], [], []
    for seed in range(n_seeds):
        system = make_system(n, terms, noise=noise, flux=flux, noise_seed=seed)
        solution = solve_kernel(system, kernel_order=1, background_order=1, **SETTINGS)
        sums.append(solution.kernel_sum)
        backgrounds.append(solution.background_terms)
        chi2.append(solution.chi2.mean())
    sum_error, background_errors = formal_errors(n, terms, noise=noise, flux=flux)
    # The scatter of 40 has an error of 11 percent, their mean one of 0.16 of the scatter.
    assert np.std(sums, ddof=1) == pytest.approx(sum_error, rel=0.4)
    np.testing.assert_allclose(np.std(backgrounds, axis=0, ddof=1), background_errors, rtol=0.4)
    assert abs(np.mean(sums) - stars.KERNEL_SUM) < 0.6 * sum_error
    assert (np.abs(np.mean(backgrounds, axis=0) - BACKGROUND) < 0.6 * background_errors).all()
    # 441 pixels a star; the fit takes 31 unknowns of them all.
    expected = 1 - 31 / (n * 441)
    assert np.mean(chi2) == pytest.approx(expected, abs=4 * np.sqrt(2 / (n_seeds * n * 441)))


def test_residual_flux_and_signal_to_noise_are_those_of_a_star():
    terms = stars.true_terms(0)
    noise, flux = 5.0, 4000.0
    system = make_system(60, terms, noise=noise, flux=flux)
    solution = solve_kernel(system, kernel_order=0, background_order=1, **SETTINGS)
    profile = matched_profiles(stars.kernels(terms, np.array([400.0]), np.array([300.0])))[0]
    expected = flux * np.sqrt((profile**2).sum()) / noise
    np.testing.assert_allclose(solution.signal_to_noise, expected, rtol=0.1)
    # In units of the error; the fitted background makes them a little smaller.
    assert 0.7 < solution.flux_residual.std() < 1.15 and abs(solution.flux_residual.mean()) < 0.3


@pytest.mark.parametrize("factor", [1.3, 0.75])
def test_a_variable_star_is_left_out(factor):
    terms = stars.true_terms(1)
    change = np.ones(40)
    change[7] = factor
    system = make_system(40, terms, noise=3.0, change=change)
    solution = solve_kernel(system, kernel_order=1, background_order=1, **SETTINGS)
    assert not solution.used[7]
    assert solution.used.sum() >= 37
    assert np.sign(solution.flux_residual[7]) == np.sign(factor - 1)
    assert solution.kernel_sum == pytest.approx(stars.KERNEL_SUM, rel=1e-3)
    assert solution.n_iterations > 1


@pytest.mark.parametrize("seed", range(4))
def test_a_bright_star_that_varies_a_little_is_left_out(seed):
    """Faint stars do not say how well fluxes of bright ones agree, nor do those whose sum it has pulled."""
    flux = np.append(np.geomspace(1e3, 2e4, 29), 5e4)  # S/N 30 to 180, and 290
    change = np.append(np.ones(29), 0.97)
    options = {"noise": 3.0, "model_error": 0.005, "photon": 1.0, "seed": seed, "noise_seed": seed}
    system = make_system(30, stars.true_terms(0), flux=flux, change=change, **options)
    solution = solve_kernel(system, kernel_order=0, background_order=1, **SETTINGS)
    assert not solution.used[-1] and solution.used[:-1].sum() >= 28
    # Its pull would be 0.007.
    assert solution.kernel_sum == pytest.approx(stars.KERNEL_SUM, rel=3e-3)


def test_bright_stars_whose_fluxes_agree_to_a_percent_only_are_kept():
    """As after a poor flat field: the mismatch is that of all of them."""
    change = 1.0 + np.random.default_rng(4).normal(0.0, 0.01, 60)
    flux = np.geomspace(1e3, 3e4, 60)
    system = make_system(60, stars.true_terms(0), noise=3.0, flux=flux, change=change, model_error=0.005)
    solution = solve_kernel(system, kernel_order=0, background_order=1, **SETTINGS)
    assert solution.used.sum() >= 57


def test_a_star_with_a_neighbour_in_one_image_only_is_left_out():
    terms = stars.true_terms(0)
    x, y = stars.positions(30)
    convolved = stars.stars(30, flux=20_000.0)
    target = stars.match(convolved, stars.kernels(terms, x, y))
    target += np.random.default_rng(3).normal(0, 3, target.shape)
    target[4, 2:6, 2:6] += 400.0
    system = stars.system_of(convolved, target, x, y, variance=9.0)
    solution = solve_kernel(system, kernel_order=0, background_order=0, **SETTINGS)
    assert not solution.used[4] and solution.used.sum() >= 27


def test_too_few_stars_are_an_error_with_numbers():
    system = make_system(2, stars.true_terms(0))
    with pytest.raises(KernelSolveError, match="2 kernel stamps of 2 are usable, at least 3") as caught:
        solve_kernel(system, kernel_order=0, background_order=0, **SETTINGS)
    assert (caught.value.n_stamps, caught.value.n_required) == (2, 3)


def test_stamps_to_begin_with_can_be_given():
    system = make_system(30, stars.true_terms(0), noise=3.0)
    used = np.zeros(30, bool)
    used[:2] = True
    with pytest.raises(KernelSolveError, match="2 kernel stamps of 30"):
        solve_kernel(system, kernel_order=0, background_order=0, used=used, **SETTINGS)


def order_chosen(truth, *, size=0.05):
    system = make_system(80, stars.true_terms(truth, size=size), noise=5.0)
    order, choice, scores = choose_spatial_order(
        system,
        np.ones(80, bool),
        n_basis=len(BASIS),
        shape=SHAPE,
        orders=(0, 1, 2),
        background_order=1,
        n_folds=5,
        extras=[None],
    )
    assert choice == 0 and scores.shape == (3, 1)
    return order, scores[:, 0]


def test_order_of_a_constant_kernel_is_0():
    order, scores = order_chosen(0)
    assert order == 0
    assert scores[0] == pytest.approx(1.0, abs=0.05)


def test_order_of_a_varying_kernel_is_found():
    order, scores = order_chosen(1)
    assert order == 1
    assert scores[1] < 1.1 < scores[0]


def test_further_equations_pull_and_are_never_left_out():
    system = make_system(30, stars.true_terms(0), noise=3.0)
    grid = np.linspace(50, 550, 5)
    # Blank sky that knows of a background of 8 everywhere, much better than the stars do.
    sky = sky_system(
        np.zeros(5), np.full(5, 8.0), x=grid, y=grid, variance=np.full(5, 1e-8), n_features=len(BASIS) + 1
    )
    solution = solve_kernel(system, kernel_order=0, background_order=0, extra=sky, **SETTINGS)
    assert solution.background_terms[0] == pytest.approx(8.0, abs=1e-3)
    assert len(solution.used) == 30
    assert len(concatenate(system, sky)) == 35


def test_levels_of_sky_that_differ_by_the_flux_scale_make_no_background():
    # The sky of the convolved image is scaled by the kernel's sum like everything else.
    system = make_system(30, stars.true_terms(0), noise=3.0)
    level = np.array([10.0, 20.0, 30.0])
    sky = sky_system(
        level,
        stars.KERNEL_SUM * level + 2.0,
        x=np.array([100.0, 300.0, 500.0]),
        y=np.array([100.0, 500.0, 300.0]),
        variance=np.full(3, 1e-6),
        n_features=len(BASIS) + 1,
    )
    solution = solve_kernel(system, kernel_order=0, background_order=0, extra=sky, **SETTINGS)
    assert solution.background_terms[0] == pytest.approx(2.0, abs=0.01)
    assert solution.kernel_sum == pytest.approx(stars.KERNEL_SUM, rel=1e-3)


def test_a_kernel_without_a_positive_sum_is_refused():
    x, y = stars.positions(20)
    convolved = stars.stars(20, flux=20_000.0)
    target = -stars.match(convolved, stars.kernels(stars.true_terms(0), x, y))
    target += np.random.default_rng(4).normal(0, 3, target.shape)
    system = stars.system_of(convolved, target, x, y, variance=9.0)
    with pytest.raises(KernelSolveError, match=r"has the sum -1\.3.*not in the other"):
        solve_kernel(system, kernel_order=0, background_order=0, **SETTINGS)
