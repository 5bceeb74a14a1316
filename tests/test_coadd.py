"""Coadds of images of which everything is known: noise, PSF, fluxes, and what must not be in them."""

import numpy as np
import pytest
from figures_of_visits import gaussian_stamp
from scipy.signal import fftconvolve
from small_pairs import draw

from lsst.twinkles.diffim.algorithms.coadd.combine import (
    combine_direct,
    combine_filtered,
    direct_psf,
    fill_from_others,
)
from lsst.twinkles.diffim.algorithms.coadd.filters import CoaddFilters
from lsst.twinkles.diffim.algorithms.coadd.inputs import (
    CoaddInput,
    inverse_variance_image,
    mean_variance_map,
    strips,
)
from lsst.twinkles.diffim.algorithms.coadd.outliers import OutlierSettings, find_outliers
from lsst.twinkles.diffim.algorithms.noise import NoiseMap
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.select.depth import flux_error, psf_power

SIGMAS = (1.4, 2.4, 1.8, 2.0)
NOISES = (3.0, 1.5, 2.0, 2.5)
SETTINGS = OutlierSettings(
    threshold=5.0, pixel_threshold=6.0, brightness_error=0.02, max_fraction=0.2, grow=2
)


def make_input(image, sigma, noise, bad=None):
    """Return an input of constant PSF and noise."""
    image = np.asarray(image, dtype=np.float32)
    return CoaddInput(
        image=image,
        bad=np.zeros(image.shape, bool) if bad is None else bad,
        sky=NoiseMap(values=np.full((1, 1), noise**2), x=np.zeros(1), y=np.zeros(1)),
        psf=PsfGrid.constant(gaussian_stamp(sigma, 41)),
    )


def make_inputs(shape, sources=(), *, seed=1, sigmas=SIGMAS, noises=NOISES, scale=1.0):
    """Return inputs of the same sources (x, y, flux) with noise of their own."""
    rng = np.random.default_rng(seed)
    return [
        make_input(draw(shape, sources, s) + scale * n * rng.standard_normal(shape), s, n)
        for s, n in zip(sigmas, noises, strict=True)
    ]


def coadd(inputs, method):
    """Return pixels and PSF (one stamp) of a coadd."""
    ny, nx = inputs[0].image.shape
    middle = {"x": np.array([nx / 2]), "y": np.array([ny / 2])}
    if method == "direct":
        return combine_direct(inputs), direct_psf(inputs, **middle, size=41).stamps[0, 0]
    filters = CoaddFilters(inputs, method)
    image = combine_filtered(filters, side=256, tolerance=1e-5, rows=300, workers=1)
    return image, filters.psf(**middle, size=41, side=256).stamps[0, 0]


@pytest.fixture(scope="module")
def noise():
    """Inputs without any source, large enough to measure noise to half a percent."""
    return make_inputs((1200, 1200))


@pytest.mark.parametrize("method", ["proper", "matched", "direct"])
def test_noise_is_white_and_as_claimed_also_behind_a_matched_filter(noise, method):
    image, psf = coadd(noise, method)
    claimed = np.sqrt(mean_variance_map(noise).median)
    assert claimed == pytest.approx(np.sum(1 / np.square(NOISES)) ** -0.5)
    assert image.std() == pytest.approx(claimed, rel=0.003)
    for shifted in (image[1:] * image[:-1], image[:, 1:] * image[:, :-1], image[2:] * image[:-2]):
        assert shifted.mean() / claimed**2 == pytest.approx(0.0, abs=0.004)
    matched = fftconvolve(image, psf[::-1, ::-1], mode="valid") / np.sqrt((psf**2).sum())
    assert matched.std() == pytest.approx(claimed, rel=0.01)


@pytest.mark.parametrize("method", ["proper", "matched", "direct"])
def test_stars_have_the_psf_and_the_flux(method):
    sources = [(60, 50, 1000.0), (141, 120, 5000.0)]
    image, psf = coadd(make_inputs((180, 200), sources, scale=0.0), method)
    for x, y, flux in sources:
        cut = image[y - 20 : y + 21, x - 20 : x + 21]
        np.testing.assert_allclose(cut, flux * psf, atol=2e-3 * flux * psf.max())
        assert cut.sum() == pytest.approx(flux, rel=2e-3)


def test_proper_coaddition_keeps_all_that_is_known_of_a_point_source(noise):
    """Inverse variances of fluxes add up; the other methods lose something."""

    def error(psf):
        return flux_error(psf_power(PsfGrid.constant(psf)), mean_variance_map(noise).median)

    single = [flux_error(psf_power(item.psf), item.sky.median) for item in noise]
    best = np.sum(1 / np.square(single)) ** -0.5
    errors = {
        method: error(coadd(make_inputs((100, 100)), method)[1]) for method in ("proper", "matched", "direct")
    }
    assert errors["proper"] == pytest.approx(best, rel=1e-3)
    assert best * 1.005 < errors["direct"] < min(single)
    assert best * 1.005 < errors["matched"] < min(single)


def test_psfs_and_noises_of_every_position():
    """An image whose noise and PSF change from left to right: claimed and true on either side."""
    shape = (600, 700)
    rng = np.random.default_rng(4)
    sky = NoiseMap(values=np.array([[1.0, 2.0]]), x=np.array([0.0, shape[1] - 1.0]), y=np.zeros(1))
    grid = PsfGrid(
        stamps=np.array([[gaussian_stamp(1.7, 41), gaussian_stamp(2.2, 41)]]),
        x=np.array([0.0, shape[1] - 1.0]),
        y=np.array([0.0]),
    )
    levels = np.sqrt(sky.image(shape))
    varying = CoaddInput(
        image=(levels * rng.standard_normal(shape)).astype(np.float32),
        bad=np.zeros(shape, bool),
        sky=sky,
        psf=grid,
    )
    other = make_input(2.0 * rng.standard_normal(shape), 2.0, 2.0)
    image = combine_filtered(
        CoaddFilters([varying, other], "proper"), side=200, tolerance=1e-5, rows=256, workers=1
    )
    pull = image * np.sqrt(1 / sky.image(shape) + 1 / 4.0)
    # PSFs change many times faster here than on a CCD. Where the order of sharpness turns, filters change
    # within a tile at frequencies that no PSF passes: single pixels are a little low there, fluxes are not.
    assert pull.std() == pytest.approx(1.0, abs=0.03)
    for x in (75, 350, 625):
        psf = CoaddFilters([varying, other], "proper").psf(
            x=np.array([x]), y=np.array([300]), size=41, side=256
        )
        fluxes = fftconvolve(pull[:, x - 75 : x + 75], psf.stamps[0, 0], mode="valid")
        assert fluxes.std() / np.sqrt((psf.stamps**2).sum()) == pytest.approx(1.0, abs=0.03)


def test_strips_do_not_show():
    inputs = make_inputs((310, 150), [(75, 155, 3000.0)])
    whole = combine_filtered(CoaddFilters(inputs, "proper"), side=128, tolerance=1e-6, rows=1000, workers=1)
    parts = combine_filtered(CoaddFilters(inputs, "proper"), side=128, tolerance=1e-6, rows=90, workers=1)
    np.testing.assert_allclose(parts, whole, atol=5e-3)
    assert [(s.start, s.stop) for s in strips(310, rows=90)] == [(0, 77), (77, 155), (155, 232), (232, 310)]


def test_holes_are_filled_from_the_others_and_the_weight_is_gone():
    inputs = make_inputs((60, 60), scale=0.0)
    inputs[0].bad[10:12, 20] = True
    inputs[0].image[10:12, 20] = 1e6
    for item in inputs:
        item.bad[50, 50] = True
    inputs[1].image[...] += 5.0
    fill_from_others(inputs)
    others = np.average([5.0, 0.0, 0.0], weights=1 / np.square(NOISES[1:]))
    assert inputs[0].image[11, 20] == pytest.approx(others)
    assert inputs[0].image[50, 50] == 0.0
    weight = inverse_variance_image(inputs, good_only=True)
    assert weight[0, 0] == pytest.approx(np.sum(1 / np.square(NOISES)))
    assert weight[10, 20] == pytest.approx(np.sum(1 / np.square(NOISES[1:])))
    assert weight[50, 50] == 0.0


# What must not be in a coadd ------------------------------------------------------------------

STARS = [(40, 40, 2000.0), (120, 45, 20000.0), (80, 150, 200000.0), (160, 120, 5e5)]
TRANSIENT, SPIKE, BESIDE_A_STAR = (60, 100), (180, 30), (124, 48)


@pytest.fixture(scope="module")
def spoilt():
    """Six images of stars, one of which varies; the third has a transient and two cosmic rays."""
    shape, sigmas, noises = (200, 220), (1.5, 1.7, 2.0, 2.3, 1.6, 2.1), (2.0,) * 6
    inputs = make_inputs(shape, STARS, sigmas=sigmas, noises=noises, seed=3)
    inputs[2].image[...] += draw(shape, [(*TRANSIENT, 400.0)], 2.0).astype(np.float32)
    inputs[2].image[SPIKE[1], SPIKE[0]] += 60.0
    inputs[2].image[BESIDE_A_STAR[1], BESIDE_A_STAR[0]] += 8000.0
    for number in (0, 1, 2):
        inputs[number].image[...] += draw(shape, [(190, 170, 3000.0)], sigmas[number]).astype(np.float32)
    return inputs


@pytest.fixture(scope="module")
def outliers(spoilt):
    return find_outliers(spoilt, SETTINGS, side=128, rows=110, workers=1)


def test_transients_and_cosmic_rays_are_found(outliers):
    x, y = TRANSIENT
    assert outliers[2][y - 3 : y + 4, x - 3 : x + 4].all()
    assert outliers[2][SPIKE[1], SPIKE[0]]
    assert outliers[2][BESIDE_A_STAR[1], BESIDE_A_STAR[0]]


def test_stars_and_what_varies_stay(outliers):
    for number, mask in enumerate(outliers):
        for x, y, _ in STARS:
            if number != 2 or (x, y) != (120, 45):
                assert not mask[y - 2 : y + 3, x - 2 : x + 3].any()
        assert not mask[168:173, 188:193].any()  # in half of the images: it varies


def test_blank_sky_is_hardly_touched(outliers):
    others = [mask for number, mask in enumerate(outliers) if number != 2]
    assert np.mean(others) < 0.002


def test_the_coadd_is_free_of_them(spoilt, outliers):
    inputs = [
        CoaddInput(image=item.image.copy(), bad=mask.copy(), sky=item.sky, psf=item.psf)
        for item, mask in zip(spoilt, outliers, strict=True)
    ]
    fill_from_others(inputs)
    dirty, _ = coadd(spoilt, "proper")
    clean, psf = coadd(inputs, "proper")
    noise = np.sqrt(mean_variance_map(inputs).median * (psf**2).sum())

    def score(image, x, y):
        return (image[y - 20 : y + 21, x - 20 : x + 21] * psf).sum() / noise

    assert score(dirty, *TRANSIENT) > 10
    assert abs(score(clean, *TRANSIENT)) < 3.5
    assert abs(score(clean, *SPIKE)) < 3.5


def test_two_images_cannot_tell():
    with pytest.raises(ValueError, match="three images to compare, got 2"):
        find_outliers(make_inputs((50, 50))[:2], SETTINGS, side=64, rows=50, workers=1)
