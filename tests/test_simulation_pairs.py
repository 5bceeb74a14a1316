"""Simulated pairs with planted transients, and the best difference that can be made of them."""

import numpy as np
import pytest

from lsst.twinkles.diffim.simulation.oracle import proper_difference, static_light
from lsst.twinkles.diffim.simulation.pairs import PAIR_CASES, simulate_pair
from lsst.twinkles.diffim.simulation.truth import optimal_flux_error


@pytest.fixture(scope="module")
def pair():
    return simulate_pair("exact", seed=5, nx=400, ny=360)


def test_same_seed_gives_the_same_pair(pair):
    again = simulate_pair("exact", seed=5, nx=400, ny=360)
    for name in ("science", "template"):
        first, second = getattr(pair, name), getattr(again, name)
        assert np.array_equal(first.image.array, second.image.array)
    assert np.array_equal(pair.truth["difference_flux"], again.truth["difference_flux"])
    other = simulate_pair("exact", seed=6, nx=400, ny=360)
    assert not np.array_equal(pair.science.image.array, other.science.image.array)


@pytest.mark.parametrize("case", PAIR_CASES)
def test_cases_have_their_seeing_and_registration_error(case):
    pair, wanted = simulate_pair(case, seed=1, nx=128, ny=100, n_transients=0), PAIR_CASES[case]
    assert pair.science.image.array.shape == (100, 128)
    assert pair.science_visit.psf.fwhm == pytest.approx(wanted.science_fwhm)
    assert pair.template_visit.psf.fwhm == pytest.approx(wanted.template_fwhm)
    middle = np.array([64.0]), np.array([50.0])
    errors = [
        np.hypot(*np.subtract(v.displace(*middle), middle)) for v in (pair.science_visit, pair.template_visit)
    ]
    assert errors[0] == pytest.approx(0.0, abs=1e-9)
    assert errors[1] == pytest.approx(wanted.jitter, abs=1e-9)
    assert not np.any(pair.truth["kind"] == "transient")


def test_an_unknown_case_is_refused():
    with pytest.raises(ValueError, match="std, rev, eq, shift, exact"):
        simulate_pair("foggy")


def test_transients_are_where_and_as_bright_as_the_truth_says(pair):
    planted = pair.truth[pair.truth["kind"] == "transient"]
    science, template = static_light(pair)
    light = (
        pair.science_visit.model - science,
        (pair.template_visit.model - template) / pair.scale,
    )
    assert len(planted) > 5 and set(np.sign(planted["difference_flux"])) == {-1.0, 1.0}
    for row in planted:
        visible = light[0] if row["difference_flux"] > 0 else light[1]
        x, y = round(row["x"]), round(row["y"])
        window = visible[max(0, y - 10) : y + 11, max(0, x - 10) : x + 11]
        # A twentieth of a Kolmogorov profile is outside of the window.
        assert window.sum() == pytest.approx(abs(row["difference_flux"]), rel=0.08)
        assert visible[y, x] > 0.5 * window.max()


def test_transients_keep_off_each_other_and_the_rim(pair):
    planted = pair.truth[pair.truth["kind"] == "transient"]
    places = np.stack([planted["x"], planted["y"]], axis=1)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + 1e9 * np.eye(len(places))
    assert distance.min() > 25.0
    assert places.min() > 25.0 and np.all(places < np.array([400, 360]) - 26)


def test_template_is_fainter_by_the_ratio_of_zero_points(pair):
    assert pair.scale == pytest.approx(1 / 1.05)
    science, template = static_light(pair)
    # The two see the same stars; each loses some wings over the rim.
    assert template.sum() / science.sum() == pytest.approx(pair.scale, rel=0.02)


def test_static_stars_are_not_saturated(pair):
    saturated = pair.science.mask.get("SATURATED") | pair.template.mask.get("SATURATED")
    rows, columns = (np.round(np.asarray(pair.stars[name])).astype(int) for name in ("y", "x"))
    assert len(rows) > 5 and not saturated[rows, columns].any()


def test_the_proper_difference_has_white_noise_of_known_size(pair):
    difference, psf = proper_difference(pair)
    noise = np.sqrt(
        np.median(pair.science_visit.sky) + 81 + (np.median(pair.template_visit.sky) + 81) / pair.scale**2
    )
    light = static_light(pair)
    blank = (light[0] < 5) & (light[1] < 5)
    for row in pair.truth:
        y, x = int(row["y"]), int(row["x"])
        blank[max(0, y - 20) : y + 21, max(0, x - 20) : x + 21] = False
    blank[:25], blank[-25:], blank[:, :25], blank[:, -25:] = False, False, False, False
    values = np.where(blank, difference / noise, 0.0)
    assert np.std(values[blank]) == pytest.approx(1.0, abs=0.02)
    neighbours = blank[:, 1:] & blank[:, :-1]
    assert np.mean((values[:, 1:] * values[:, :-1])[neighbours]) == pytest.approx(0.0, abs=0.02)
    assert psf.shape == (41, 41) and psf[20, 20] == psf.max()


def gaussian(sigma, size=41):
    y, x = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def test_best_flux_error_of_gaussians():
    sigma = 2.5
    area = 4 * np.pi * sigma**2  # noise-equivalent area of a Gaussian
    stamp = gaussian(sigma)
    equal = optimal_flux_error(stamp, stamp, 100.0, 100.0)
    assert equal == pytest.approx(np.sqrt(200.0 * area), rel=0.01)
    # A template without noise leaves the error of the science image alone.
    alone = optimal_flux_error(stamp, gaussian(1.5), np.array([100.0, 400.0]), np.array([0.01, 0.04]))
    assert alone == pytest.approx(np.sqrt(np.array([100.0, 400.0]) * area), rel=0.01)
    wide, narrow = (optimal_flux_error(stamp, gaussian(s), 100.0, 100.0) for s in (3.0, 1.5))
    assert narrow < equal < wide
