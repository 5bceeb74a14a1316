"""Predicted depth against closed forms and brute force; limits, overlaps, quantiles against what they are."""

import numpy as np
import pytest
from figures_of_visits import gaussian_stamp, make_figures, square_corners
from hypothesis import given
from hypothesis import strategies as st

from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.select.choose import (
    SelectionLimits,
    find_reasons,
    predict_errors,
    quantile_ranks,
)
from lsst.twinkles.diffim.algorithms.select.depth import (
    difference_flux_error,
    flux_error,
    limiting_magnitude,
    psf_power,
)
from lsst.twinkles.diffim.algorithms.select.figures import overlap_fraction


def power_of(sigma):
    return psf_power(PsfGrid.constant(gaussian_stamp(sigma)))


def test_single_image_has_the_error_of_a_least_squares_flux():
    stamp = gaussian_stamp(2.3)
    assert flux_error(power_of(2.3), 7.0) == pytest.approx(np.sqrt(7.0 / (stamp**2).sum()), rel=1e-6)
    assert flux_error(power_of(2.3), 7.0) == pytest.approx(np.sqrt(7.0 * 4 * np.pi) * 2.3, rel=1e-5)


def test_equal_images_have_twice_the_variance():
    expected = np.sqrt(2.0) * flux_error(power_of(2.0), 5.0)
    assert difference_flux_error(power_of(2.0), power_of(2.0), 5.0, 5.0) == pytest.approx(expected, rel=1e-6)


def test_template_without_noise_leaves_the_science_image():
    power = difference_flux_error(power_of(2.0), power_of(1.5), 5.0, 1e-9)
    assert power == pytest.approx(flux_error(power_of(2.0), 5.0), rel=1e-4)


@pytest.mark.parametrize(("science", "template"), [(2.2, 1.5), (1.5, 2.2), (1.8, 1.8)])
def test_agrees_with_least_squares_on_both_images(science, template):
    """A flux that is in the science image only, over an unknown scene that is in both: by matrices."""
    n, v_s, v_t = 41, 3.0, 5.0  # one dimension: the scene has as many unknowns as pixels
    x = np.arange(n) - n // 2
    shift = np.minimum(np.abs(x[:, None] - x), n - np.abs(x[:, None] - x))  # periodic
    blurs = [np.exp(-0.5 * (shift / s) ** 2) for s in (science, template)]
    blurs = [b / b.sum(axis=1, keepdims=True) for b in blurs]
    design = np.block([[blurs[0], blurs[0][:, [n // 2]]], [blurs[1], np.zeros((n, 1))]])
    weight = np.repeat([1 / v_s, 1 / v_t], n)
    normal = design.T @ (weight[:, None] * design)
    # The scene is marginalised; a trace of ridge stands for frequencies that no PSF passes.
    scene = normal[:n, :n] + 1e-13 * np.eye(n)
    information = normal[n, n] - normal[n, :n] @ np.linalg.solve(scene, normal[:n, n])
    # The same sum in one dimension.
    s, t = (np.abs(np.fft.fft(b[0])) ** 2 for b in blurs)
    expected = np.mean(s * t / (v_s * t + v_t * s + 1e-300))
    assert information == pytest.approx(expected, rel=1e-3)


@given(
    st.floats(1.3, 4.0),
    st.floats(1.3, 4.0),
    st.floats(0.1, 100.0),
    st.floats(0.1, 100.0),
    st.floats(0.2, 5.0),
)
def test_symmetry_scaling_and_bounds(a, b, v_a, v_b, factor):
    error = difference_flux_error(power_of(a), power_of(b), v_a, v_b)
    assert error == pytest.approx(difference_flux_error(power_of(b), power_of(a), v_b, v_a), rel=1e-6)
    scaled = difference_flux_error(power_of(a), power_of(b), factor * v_a, factor * v_b)
    assert scaled == pytest.approx(np.sqrt(factor) * error, rel=1e-6)
    assert error >= max(flux_error(power_of(a), v_a), flux_error(power_of(b), v_b)) * (1 - 1e-6)
    quadrature = np.hypot(flux_error(power_of(a), v_a), flux_error(power_of(b), v_b))
    assert error >= quadrature * (1 - 1e-6)  # harmonic mean of the powers never exceeds that of the sums


def test_limiting_magnitude():
    assert limiting_magnitude(1.0 / 5) == pytest.approx(31.4)
    assert limiting_magnitude(100.0 / 3, significance=3) == pytest.approx(26.4)


def test_predicted_errors_are_in_nanojansky_whatever_the_units():
    science = make_figures(1, sigma=2.2, noise=40.0, scale=2.0)
    candidates = [make_figures(2, sigma=1.6, noise=20.0, scale=scale) for scale in (0.5, 1.0, 8.0)]
    errors = predict_errors(candidates, science)
    expected = difference_flux_error(science.power, candidates[0].power, 40.0**2, 20.0**2)
    assert errors == pytest.approx(np.full(3, expected), rel=1e-6)
    assert predict_errors(candidates, None) == pytest.approx(
        np.full(3, 20 * 2 * np.sqrt(np.pi) * 1.6), rel=1e-4
    )


def test_candidate_without_noise_has_no_error():
    assert np.isnan(predict_errors([make_figures(2, noise=np.nan)], make_figures(1)))[0]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("x", "y", "expected"), [(0, 0, 1), (0.5, 0, 0.5), (0.25, 0.25, 0.5625), (-0.1, 0, 0.9), (2, 0, 0)]
)
def test_overlap(x, y, expected, flip):
    frame = square_corners(flip=flip)
    other = square_corners(x=0.01 * x, y=0.01 * y, flip=flip)
    assert overlap_fraction(frame, other) == pytest.approx(expected, abs=0.03)
    assert overlap_fraction(frame, -other) == 0.0  # the other side of the sky


def test_overlap_of_opposite_handedness():
    assert overlap_fraction(square_corners(), square_corners()[::-1]) == 1.0


@pytest.mark.parametrize(
    ("changes", "limits", "reason"),
    [
        ({"visit": 1}, {}, "the science visit itself"),
        ({}, {"excluded": frozenset({2})}, "excluded"),
        ({"noise": np.nan}, {}, "noise or PSF unknown"),
        ({}, {"max_fwhm": 0.9}, "FWHM 0.94 arcsec outside 0..0.9"),
        ({}, {"min_fwhm": 5.0, "fwhm_in_pixels": True}, "FWHM 4.71 pixels outside 5..inf"),
        ({}, {"max_mjd": 60001.0}, "MJD 60002.0 outside -inf..60001"),
        ({"mjd": np.nan}, {"min_mjd": 50000.0}, "MJD nan outside 50000..inf"),
        ({}, {"min_separation": 2.0}, "less than 2 days away"),
        ({"mjd": np.nan}, {"min_separation": 2.0}, "less than 2 days away"),
        ({"detector": 95}, {}, "detector 95"),
        ({"band": "g"}, {}, "band g"),
        ({"band": "g"}, {"same_band": False}, ""),
        ({"scale": np.nan}, {}, "not calibrated"),
        ({"corners": square_corners(x=0.005)}, {"min_overlap": 0.9}, "covers 48 percent"),
        ({"corners": square_corners(x=0.005)}, {"min_overlap": 0.4}, ""),
        ({"corners": square_corners(x=0.05)}, {}, "covers 0 percent"),
        ({}, {"min_separation": 1.0, "min_mjd": 60002.0, "max_fwhm": 1.0, "min_overlap": 1.0}, ""),
    ],
)
def test_reasons(changes, limits, reason):
    candidate = make_figures(**{"visit": 2, **changes})
    assert find_reasons([candidate], make_figures(1), SelectionLimits(**limits)) == [reason]


def test_without_a_science_exposure_only_the_candidates_own_limits_count():
    candidates = [make_figures(1, band="g"), make_figures(2, detector=95)]
    assert find_reasons(candidates, None, SelectionLimits(min_overlap=0.9, min_separation=5)) == ["", ""]


@pytest.mark.parametrize(
    ("n", "q", "n_min", "expected"),
    [
        (10, (0.0, 0.33), 5, (0, 5)),  # the case that the stack's documentation works out
        (100, (0.0, 0.33), 6, (0, 33)),
        (100, (0.1, 0.3), 6, (10, 30)),
        (10, (0.9, 1.0), 4, (6, 10)),  # the lower bound leaves at least as many
        (3, (0.0, 0.33), 6, (0, 3)),
        (0, (0.0, 0.33), 6, (0, 0)),
    ],
)
def test_quantile_ranks(n, q, n_min, expected):
    assert quantile_ranks(n, q_min=q[0], q_max=q[1], n_min=n_min) == expected


@given(st.integers(0, 200), st.floats(0, 1), st.floats(0, 1), st.integers(1, 20))
def test_quantile_ranks_hold_enough(n, q, width, n_min):
    start, stop = quantile_ranks(n, q_min=q, q_max=min(1.0, q + width), n_min=n_min)
    assert 0 <= start <= stop <= n
    assert stop - start >= min(n, n_min)
