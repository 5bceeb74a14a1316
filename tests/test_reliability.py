"""Reliability: features that mean what they say, and a model that tells point sources from artefacts."""

import json

import numpy as np
import pytest
from astropy.table import Table
from conftest import ROOT
from scipy.ndimage import shift
from test_detect_streaks import make_difference

from lsst.twinkles.diffim.algorithms.measure.reliability import (
    FEATURES,
    ReliabilityModel,
    expand_terms,
    measure_features,
)
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.tasks.score_reliability import ScoreReliabilityTask, read_model

NAMES = [name for name, _ in FEATURES]
SIGMA, SHAPE = 2.0, (400, 400)


def psf_stamp(size=25):
    y, x = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-0.5 * (x**2 + y**2) / SIGMA**2)
    return stamp / stamp.sum()


def places():
    return [(float(x), float(y)) for x in range(30, 380, 40) for y in range(30, 380, 40)]


def scene(kind, *, snr=20.0, noise=1.0, seed=1):
    """Return difference, science and template with one thing at each place, and the positions."""
    rng = np.random.default_rng(seed)
    flux = snr * np.sqrt(4 * np.pi) * SIGMA
    change, steady = np.zeros(SHAPE), np.zeros(SHAPE)
    positions = []
    for x, y in places():
        dx, dy = rng.uniform(-0.5, 0.5, 2)
        cut = np.s_[int(y) - 12 : int(y) + 13, int(x) - 12 : int(x) + 13]
        star = shift(psf_stamp(), (dy, dx), order=5)
        if kind == "point":
            change[cut] += flux * star
        elif kind == "hot pixel":
            change[int(y), int(x)] += flux / 4
        elif kind == "dipole":
            bright = 40 * flux * star
            steady[cut] += bright
            change[cut] += shift(bright, (0.0, 0.15), order=5) - bright
        positions.append((x + dx, y + dy) if kind == "point" else (x, y))
    return change + noise * rng.normal(size=SHAPE), steady + change, steady, np.array(positions)


def features_of(kind, **kwargs):
    difference, science, template, positions = scene(kind, **kwargs)
    nothing = np.zeros(SHAPE, bool)
    return measure_features(
        difference, np.ones(SHAPE), science, template,
        {"bad": nothing, "saturated": nothing, "streak": nothing}, PsfGrid.constant(psf_stamp()),
        x=positions[:, 0], y=positions[:, 1], negative=np.zeros(len(positions), bool),
        fwhm=2.3548 * SIGMA, sky_variance=1.0,
    )  # fmt: skip


def median(features, name):
    return float(np.median(features[:, NAMES.index(name)]))


def test_features_of_a_perfect_point_source():
    """Without noise to speak of: it is its PSF, all on the science and nothing on the template image."""
    f = features_of("point", snr=1e4, noise=1e-3)
    assert median(f, "log_snr") == pytest.approx(4.0, abs=0.01)
    # Light is at least its noise: the root of the pixels within one FWHM over 15/16 of the flux.
    fwhm, flux = 2.3548 * SIGMA, 1e4 * np.sqrt(4 * np.pi) * SIGMA
    least = np.log10(np.sqrt(np.pi) * fwhm / (15 / 16 * flux))
    for name, value in {
        "misfit": 0.0, "cosine": 1.0, "center": 1.0, "neighbours": 0.0, "opposite": 0.0, "width": 0.0,
        "log_science": 0.0, "log_template": least, "bad": 0.0, "saturated": 0.0, "streak": 0.0,
        "log_variance": 0.0,
    }.items():  # fmt: skip
        assert median(f, name) == pytest.approx(value, abs=0.06), name


def test_features_of_artefacts_stand_out():
    point, hot, dipole = (features_of(kind) for kind in ("point", "hot pixel", "dipole"))
    assert median(hot, "center") > 3 and median(hot, "neighbours") < -0.5
    assert median(hot, "misfit") > 5 * median(point, "misfit")
    assert median(dipole, "opposite") > 0.3 > 5 * median(point, "opposite")
    assert median(dipole, "gradient") > 0.8 > median(point, "gradient") + 0.4
    assert median(dipole, "log_template") > 0.5 > median(point, "log_template")


def test_features_do_not_know_units_or_sign():
    difference, science, template, positions = scene("dipole")
    nothing = np.zeros(SHAPE, bool)

    def measure(factor, sky):
        return measure_features(
            factor * difference, np.full(SHAPE, factor**2),
            abs(factor) * science + sky, abs(factor) * template + sky,
            {"bad": nothing, "saturated": nothing, "streak": nothing}, PsfGrid.constant(psf_stamp()),
            x=positions[:, 0], y=positions[:, 1], negative=np.full(len(positions), factor < 0),
            fwhm=2.3548 * SIGMA, sky_variance=factor**2,
        )  # fmt: skip

    np.testing.assert_allclose(measure(1.0, 0.0), measure(30.0, 500.0), atol=1e-6)
    np.testing.assert_allclose(measure(1.0, 0.0), measure(-1.0, 0.0), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("point", 0.8, 1.0), ("hot pixel", 0.0, 0.1), ("dipole", 0.0, 0.1)]
)
def test_the_packaged_model_tells_them_apart(kind, low, high):
    scores = read_model().score(features_of(kind, seed=5))
    assert low <= np.median(scores) <= high
    assert np.mean((scores > 0.5) == (kind == "point")) > 0.9


def test_terms_and_logit():
    values = np.array([[2.0, 3.0]])
    np.testing.assert_array_equal(expand_terms(values), [[2, 3, 4, 6, 9]])
    n = len(FEATURES)
    weights = np.zeros(n * (n + 3) // 2)
    weights[0] = 2.0
    model = ReliabilityModel("v", tuple(NAMES), np.ones(n), np.full(n, 0.5), -1.0, weights)
    features = np.ones((3, n))
    features[1, 0], features[2, 0] = 1.25, 1e9
    # Half a standard deviation up; beyond five it counts no more.
    np.testing.assert_allclose(model.score(features), 1 / (1 + np.exp(-np.array([-1.0, 0.0, 9.0]))))


def test_a_model_for_other_features_is_refused(tmp_path):
    packaged = ROOT / "python/lsst/twinkles/diffim/data/reliability.json"
    content = json.loads(packaged.read_text())
    for change, message in (
        ({"features": content["features"][:-1]}, "train it again"),
        ({"weights": content["weights"][1:]}, "lengths do not agree"),
    ):
        path = tmp_path / "model.json"
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=message):
            read_model(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"modelFile .* holds no reliability model"):
        read_model(path)


def test_task_adds_columns_in_the_frame_of_the_image():
    *images, positions = scene("point")
    exposures = [make_difference(image, start=(70, -30)) for image in images]
    table = Table(
        {
            "x": positions[:, 0] - 30,
            "y": positions[:, 1] + 70,
            "isNegative": np.zeros(len(positions), bool),
        }
    )
    result = ScoreReliabilityTask().run(*exposures, table)
    assert "reliability" not in table.colnames
    assert (
        np.median(result.diaSources["reliability"]) > 0.8
        and result.diaSources["reliability"].dtype == np.float32
    )
    assert set(result.diaSources["reliabilityVersion"]) == {read_model().version}
    none = ScoreReliabilityTask().run(*exposures, table[:0]).diaSources
    assert len(none) == 0 and {"reliability", "reliabilityVersion"} <= set(none.colnames)


@pytest.mark.slow
def test_held_out_pairs_with_artefacts(monkeypatch):
    """Three pairs of seeds not trained on; the figures of doc/algorithms.md are from twelve."""
    monkeypatch.syspath_prepend(ROOT / "bench")
    import reliability

    examples = [reliability.make_examples(seed, 512, training=False) for seed in (2001, 2002, 2003)]
    real = np.concatenate([e["real"] for e in examples])
    score = read_model().score(np.concatenate([e["features"] for e in examples]))
    assert real.sum() > 50 and (~real).sum() > 30
    assert (score[real] > 0.5).mean() > 0.94
    assert (score[~real] > 0.5).mean() < 0.2
