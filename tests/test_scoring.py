"""Scores: a difference that is as good as can be has the best ones, and every fault lowers one of them."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.simulation.oracle import proper_difference, proper_variance, static_light
from lsst.twinkles.diffim.simulation.pairs import simulate_pair
from lsst.twinkles.diffim.simulation.scoring import DifferenceScore, score_difference


@pytest.fixture(scope="module")
def pair():
    return simulate_pair("std", seed=2, nx=512, ny=512, n_transients=80)


@pytest.fixture(scope="module")
def best(pair):
    """What `score_difference` takes, for the best possible difference."""
    difference, psf = proper_difference(pair)
    masks = [e.mask.get(plane) for e in (pair.science, pair.template) for plane in ("SATURATED", "BAD")]
    return dict(
        difference=difference,
        variance=proper_variance(pair),
        masked=np.logical_or.reduce(masks),
        psf=PsfGrid.constant(psf),
    )


def score(pair, best, **changes):
    return score_difference(pair, **(best | changes))


def test_the_best_difference_has_the_best_scores(pair, best):
    result = score(pair, best)
    assert result.sigma == pytest.approx(1.0, abs=0.01)
    assert result.claimed == pytest.approx(1.0, abs=0.01)
    assert result.matched_filter == pytest.approx(1.0, abs=0.05)
    assert abs(result.ac1) < 0.01 and abs(result.ac2) < 0.01
    assert result.n_stars >= 5 and result.star == pytest.approx(1.0, abs=4 / np.sqrt(2 * result.n_stars))
    assert result.n_transients >= 10 and abs(result.bias) < 4.0
    assert 0.4 < result.scatter < 1.6 and 0.4 < result.pull < 1.6
    assert result.completeness >= 0.9 and result.false <= 1 and result.masked == 0.0
    measured, true, error = np.transpose(result.transients)
    assert len(true) == np.count_nonzero(pair.truth["kind"] == "transient")
    pulls = ((measured - true) / error)[np.isfinite(measured)]
    assert abs(pulls.mean()) < 4 / np.sqrt(len(pulls)) and np.abs(pulls).max() < 5


def test_variance_of_the_best_difference_is_that_of_its_noise(pair):
    """Noise of nothing but the true variance, many times over, through the same filters."""
    rng = np.random.default_rng(3)
    visits = (pair.science_visit, pair.template_visit)
    light = static_light(pair)
    power, n = 0.0, 12
    for _ in range(n):
        changed = {}
        for name, visit, static in zip(("science_visit", "template_visit"), visits, light, strict=True):
            noise = rng.normal(size=static.shape) * np.sqrt(visit.true_variance)
            exposure = visit.exposure.copy()
            exposure.image.array[...] = static + visit.sky + noise
            changed[name] = dataclasses.replace(visit, exposure=exposure)
        difference = proper_difference(dataclasses.replace(pair, **changed))[0]
        power = power + difference**2
    ratio = power / n / proper_variance(pair)
    good = np.ones(ratio.shape, bool)
    for exposure in (pair.science, pair.template):
        for plane in ("SATURATED", "BAD"):
            good &= ~ndimage.binary_dilation(exposure.mask.get(plane), iterations=25)
    bright = good & (light[0] > np.median(pair.science_visit.sky))
    assert bright.sum() > 100
    for where in (good, bright):
        assert np.mean(ratio[where]) == pytest.approx(1.0, abs=5 * np.sqrt(2 / (n * where.sum() / 9)))


def test_wrong_flux_scale_shows_as_bias(pair, best):
    honest = score(pair, best)
    scaled = score(pair, best, difference=1.1 * best["difference"], variance=1.21 * best["variance"])
    assert scaled.bias - honest.bias == pytest.approx(10.0, abs=0.6)
    assert scaled.sigma == pytest.approx(1.1 * honest.sigma, rel=0.01)
    assert scaled.claimed == pytest.approx(honest.claimed, rel=1e-6)


def test_correlated_noise_shows_as_autocorrelation(pair, best):
    kernel = np.array([0.25, 0.5, 0.25])
    smooth = best["difference"]
    for axis in (0, 1):
        smooth = ndimage.convolve1d(smooth, kernel, axis=axis)
    result = score(pair, best, difference=smooth)
    # Of white noise convolved with (1, 2, 1) / 4 the correlations at lags 1 and 2 are 2/3 and 1/6.
    assert result.ac1 == pytest.approx(2 / 3, abs=0.02)
    assert result.ac2 == pytest.approx(1 / 6, abs=0.03)
    assert result.sigma == pytest.approx(6 / 16, rel=0.03)
    assert result.matched_filter != pytest.approx(result.claimed, rel=0.5)


def test_a_wrong_claim_of_variance_shows_and_changes_nothing_else(pair, best):
    honest, boasting = score(pair, best), score(pair, best, variance=best["variance"] / 4)
    assert boasting.claimed == pytest.approx(2 * honest.claimed, rel=0.01)
    assert boasting.matched_filter == pytest.approx(2 * honest.matched_filter, rel=0.01)
    assert boasting.star == pytest.approx(2 * honest.star, rel=0.02)
    assert boasting.pull == pytest.approx(2 * honest.pull, rel=0.05)
    assert boasting.sigma == honest.sigma and boasting.scatter == pytest.approx(honest.scatter, rel=1e-6)
    # Detection is normalised by the noise that is there.
    assert (boasting.completeness, boasting.false) == (honest.completeness, honest.false)


def test_residuals_of_stars_show(pair, best):
    residual = best["difference"] + 0.3 * static_light(pair)[0]
    result, honest = score(pair, best, difference=residual), score(pair, best)
    assert result.star > 2 * honest.star
    assert result.false > honest.false + 3


def test_transients_that_are_gone_are_missed(pair, best):
    changed = {}
    for name, light in zip(("science_visit", "template_visit"), static_light(pair), strict=True):
        visit = getattr(pair, name)
        exposure = visit.exposure.copy()
        exposure.image.array[...] -= (visit.model - light).astype(np.float32)
        changed[name] = dataclasses.replace(visit, exposure=exposure)
    noise_alone = proper_difference(dataclasses.replace(pair, **changed))[0]
    gone = score(pair, best, difference=noise_alone)
    assert gone.completeness < 0.05 and gone.bias == pytest.approx(-100.0, abs=5.0)
    turned = score(pair, best, difference=-best["difference"])
    assert turned.completeness == 0.0 and turned.bias == pytest.approx(-200.0, abs=5.0)


def test_false_detections_are_counted(pair, best):
    stamp = best["psf"].evaluate(x=0.0, y=0.0)
    noise = np.sqrt(np.median(best["variance"]))
    fake = best["difference"].copy()
    bright = 20 * noise / np.sqrt(np.sum((stamp / stamp.sum()) ** 2)) * stamp / stamp.sum()
    free = free_places(pair, best["masked"], 4)
    for number, (x, y) in enumerate(free):
        fake[y - 20 : y + 21, x - 20 : x + 21] += bright * (-1) ** number
    assert score(pair, best, difference=fake).false == score(pair, best).false + 4


def free_places(pair, masked, count):
    """Return positions far from anything true and from masked pixels."""
    taken = np.stack([pair.truth["x"], pair.truth["y"]], axis=1)
    distance = ndimage.distance_transform_edt(~masked)
    rng, found = np.random.default_rng(1), []
    while len(found) < count:
        place = rng.integers(60, 452, 2)
        others = np.concatenate([taken, np.array(found).reshape(-1, 2)])
        if np.min(np.hypot(*(others - place).T)) > 30 and distance[place[1], place[0]] > 45:
            found.append(place)
    return found


def test_pixels_that_are_masked_away_show(pair, best):
    masked = best["masked"].copy()
    masked[:, :256] = True
    result = score(pair, best, masked=masked)
    assert result.masked == pytest.approx(50.0, abs=1.0)
    assert result.n_transients < score(pair, best).n_transients
    # Pixels that are not finite count as masked and spoil nothing.
    holes = best["difference"].copy()
    holes[:, :256] = np.nan
    assert score(pair, best, difference=holes).sigma == pytest.approx(result.sigma)


def test_a_field_without_enough_sky_is_refused(pair, best):
    with pytest.raises(ValueError, match="blank sky"):
        score(pair, best, masked=np.ones_like(best["masked"]))


def test_scores_are_explained():
    text = DifferenceScore.__doc__
    assert all(f"{field.name}" in text for field in dataclasses.fields(DifferenceScore))
