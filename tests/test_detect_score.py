"""The significance image."""

import numpy as np
import pytest

from lsst.twinkles.diffim.algorithms.detect.score import significance_image
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

SHAPE = (400, 420)
SETTINGS = {"min_coverage": 0.5, "side": 160}
GOOD = np.zeros(SHAPE, bool)


def gaussian(size, sigma, *, dx=0.0, dy=0.0):
    v, u = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-((u - dx) ** 2 + (v - dy) ** 2) / (2 * sigma**2))
    return stamp / stamp.sum()


def lopsided(size=25):
    """A PSF that is not symmetric: correlation and convolution differ."""
    stamp = 0.7 * gaussian(size, 1.8) + 0.3 * gaussian(size, 1.5, dx=3.0, dy=-1.0)
    return stamp / stamp.sum()


def noise(seed=1, variance=25.0):
    return np.random.default_rng(seed).normal(0, 1, SHAPE).astype("f4") * np.sqrt(np.float32(variance))


def plane(value):
    return np.full(SHAPE, value, "f4")


def test_blank_noise_has_unit_variance():
    score = significance_image(noise(), plane(25.0), GOOD, PsfGrid.constant(lopsided()), **SETTINGS)
    inner = score[15:-15, 15:-15]
    # 144 000 pixels, about 1 / 40 of them independent: 2.4 percent on the variance, 0.017 on the mean.
    assert inner.var() == pytest.approx(1.0, abs=0.08)
    assert abs(inner.mean()) < 0.06
    # At the rim, too, where the PSF is cut off: 40 000 pixels.
    rim = np.concatenate([score[:8].ravel(), score[-8:].ravel(), score[:, :8].ravel(), score[:, -8:].ravel()])
    assert rim.var() == pytest.approx(1.0, abs=0.25)


def test_noise_that_varies_has_unit_variance_everywhere():
    variance = np.linspace(10, 100, SHAPE[1], dtype="f4")[None, :] * np.ones((SHAPE[0], 1), "f4")
    score = significance_image(noise(2, variance), variance, GOOD, PsfGrid.constant(lopsided()), **SETTINGS)
    for part in np.array_split(score[15:-15], 3, axis=1):
        assert part.var() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize(("x", "y"), [(200, 150), (137, 136), (30, 380)])
def test_a_source_has_the_signal_to_noise_of_a_psf_flux(x, y):
    stamp, flux, variance = lopsided(), 3000.0, 25.0
    image = np.zeros(SHAPE, "f4")
    image[y - 12 : y + 13, x - 12 : x + 13] = flux * stamp
    score = significance_image(image, plane(variance), GOOD, PsfGrid.constant(stamp), **SETTINGS)
    expected = flux * np.sqrt((stamp**2).sum() / variance)
    assert score[y, x] == pytest.approx(expected, rel=1e-4)
    assert np.unravel_index(np.argmax(score), SHAPE) == (y, x)
    negative = significance_image(-image, plane(variance), GOOD, PsfGrid.constant(stamp), **SETTINGS)
    np.testing.assert_allclose(negative, -score, atol=1e-4 * expected)


def test_a_source_under_a_psf_that_varies():
    stamps = np.stack([gaussian(25, 1.5), gaussian(25, 2.5)])[None]
    psf = PsfGrid(stamps=stamps, x=np.array([0.0, 419.0]), y=np.zeros(1))
    for x in (40, 210, 380):
        local = psf.evaluate(x=float(x), y=0.0)
        image = np.zeros(SHAPE, "f4")
        image[188:213, x - 12 : x + 13] = 3000.0 * local
        score = significance_image(image, plane(25.0), GOOD, psf, **SETTINGS)
        # The power of the PSF is taken as constant in a tile only if it varies by less than a tenth.
        assert score[200, x] == pytest.approx(3000.0 * np.sqrt((local**2).sum() / 25.0), rel=0.02)


def test_masked_pixels_have_no_weight():
    stamp, flux = lopsided(), 3000.0
    x, y = 200, 150
    image = np.zeros(SHAPE, "f4")
    cut = np.s_[y - 12 : y + 13, x - 12 : x + 13]
    image[cut] = flux * stamp
    bad = GOOD.copy()
    bad[y - 1 : y + 2, x + 1] = True
    bad[50, 60] = True
    image[50, 60] = np.nan
    image[bad & (image != 0)] = 1e9
    variance = plane(25.0)
    variance[bad] = np.nan
    score = significance_image(image, variance, bad, PsfGrid.constant(stamp), **SETTINGS)
    assert np.isfinite(score).all()
    used = stamp * ~bad[cut]
    assert score[y, x] == pytest.approx(flux * np.sqrt((used**2).sum() / 25.0), rel=1e-3)
    blank = significance_image(
        np.where(bad, np.nan, noise(3)), variance, bad, PsfGrid.constant(stamp), **SETTINGS
    )
    assert np.abs(blank[45:56, 55:66]).max() < 5.5


def test_too_few_pixels_make_no_significance():
    bad = GOOD.copy()
    bad[100:200, 100:200] = True
    score = significance_image(noise(4), plane(25.0), bad, PsfGrid.constant(gaussian(25, 2.0)), **SETTINGS)
    assert (score[104:196, 104:196] == 0).all()
    # On the edge of the hole just half of the core is good.
    assert (score[102:198, 99 - 2] != 0).all() and (score[102:198, 103] == 0).all()
    assert not significance_image(
        noise(4), plane(25.0), ~GOOD, PsfGrid.constant(gaussian(25, 2.0)), **SETTINGS
    ).any()


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_useless_variance_under_the_mask_is_ignored(value):
    bad = GOOD.copy()
    bad[200, 200] = True
    variance = plane(25.0)
    variance[200, 200] = value
    score = significance_image(noise(5), variance, bad, PsfGrid.constant(lopsided()), **SETTINGS)
    assert np.isfinite(score).all()
