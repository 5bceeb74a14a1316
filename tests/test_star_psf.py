"""The PSF that is measured from stars is that of the stars."""

import galsim
import numpy as np
import pytest
from lsst.images import Box
from plain_scenes import FWHM_PER_SIGMA, make_scene

from lsst.twinkles.diffim.adapters.psfs import InvalidPsfError, psf_fwhm, sample_psf
from lsst.twinkles.diffim.adapters.star_psf import measure_psf
from lsst.twinkles.diffim.algorithms.read.sky import estimate_sky
from lsst.twinkles.diffim.algorithms.read.stars import StarSample, find_psf_stars, outshone_pixels


def prepare(image, bad=None):
    """Return sky-subtracted pixels, the scatter of the sky, and where the image is bad."""
    bad = np.zeros(image.shape, bool) if bad is None else bad
    sky = estimate_sky(image, bad, mesh=64)
    return (image - sky.level).astype(np.float32), sky.sigma, bad


def measure(scene, bad=None):
    light, sigma, bad = prepare(scene.image, bad)
    bbox = Box.from_shape(scene.image.shape)
    return measure_psf(light, sigma, scene.true_variance, bad, bbox), bbox


def true_stamp(scene, size, shear=0.0):
    profile = galsim.Gaussian(sigma=scene.sigma).shear(g1=shear)
    stamp = profile.drawImage(nx=size, ny=size, scale=1.0, method="no_pixel").array
    return stamp / stamp.sum()


@pytest.mark.parametrize("sigma, shear", [(1.1, 0.0), (1.8, 0.1), (3.2, 0.0)])
def test_constant_psf(sigma, shear):
    scene = make_scene(sigma=sigma, shear=shear, n_stars=36)
    result, bbox = measure(scene)
    grid = sample_psf(result.psf, bbox, grid=1)
    stamp = grid.stamps[0, 0]
    truth = true_stamp(scene, grid.size, shear)
    assert psf_fwhm(grid) == pytest.approx(FWHM_PER_SIGMA * sigma, rel=0.03)
    assert np.abs(stamp - truth).max() < 0.03 * truth.max()


def test_bounds_and_pixel_frame():
    """The model belongs to the box it is given, wherever that starts."""
    scene = make_scene()
    light, sigma, bad = prepare(scene.image)
    bbox = Box.from_shape(scene.image.shape, start=(1000, 2000))
    psf = measure_psf(light, sigma, scene.true_variance, bad, bbox).psf
    assert psf.bounds.bbox == bbox
    assert np.isfinite(psf.compute_kernel_image(x=2100.0, y=1100.0).array).all()


def test_few_stars_give_a_moffat_profile():
    scene = make_scene(n_stars=2, flux=3e4)
    result, bbox = measure(scene)
    assert "from 2 stars" in result.note and "Moffat" in result.note
    assert psf_fwhm(sample_psf(result.psf, bbox)) == pytest.approx(FWHM_PER_SIGMA * scene.sigma, rel=0.06)


def test_galaxies_and_cosmic_rays_are_not_taken():
    scene = make_scene(shape=(400, 400), n_stars=36, seed=2)
    others = make_scene(shape=(400, 400), n_stars=25, sigma=3.0, seed=9, sky=0.0, read_noise=0.0)
    # A star's place is left alone, so that only whole galaxies are added.
    image = scene.image + others.image
    rng = np.random.default_rng(4)
    hits = rng.integers(20, 380, (30, 2))
    image[hits[:, 0], hits[:, 1]] += 5000.0
    light, sigma, bad = prepare(image)
    stars = find_psf_stars(light, sigma, bad, min_snr=50.0, half=15, n_max=100)
    distance = np.hypot(stars.x[:, None] - scene.x, stars.y[:, None] - scene.y).min(axis=1)
    assert len(stars) >= 10
    assert (distance < 1.0).mean() >= 0.9
    assert np.median(stars.sigma) == pytest.approx(scene.sigma, rel=0.03)


def test_masked_stars_are_not_taken():
    scene = make_scene()
    bad = np.zeros(scene.image.shape, bool)
    bad[:, :160] = True
    light, sigma, _ = prepare(scene.image)
    stars = find_psf_stars(light, sigma, bad, min_snr=50.0, half=15, n_max=100)
    assert len(stars) > 5 and stars.x.min() > 160


def test_centroids_and_fluxes_of_the_stars():
    scene = make_scene()
    light, sigma, bad = prepare(scene.image)
    stars = find_psf_stars(light, sigma, bad, min_snr=50.0, half=15, n_max=100)
    nearest = np.hypot(stars.x[:, None] - scene.x, stars.y[:, None] - scene.y).argmin(axis=1)
    assert np.abs(stars.x - scene.x[nearest]).max() < 0.1
    assert np.median(stars.flux / scene.flux[nearest]) == pytest.approx(1.0, abs=0.02)
    assert (np.diff(stars.snr) <= 0).all()


def test_no_stars():
    sky = np.random.default_rng(0).normal(200.0, 10.0, (128, 128)).astype(np.float32)
    light, sigma, bad = prepare(sky)
    with pytest.raises(InvalidPsfError, match="no isolated, unsaturated one"):
        measure_psf(light, sigma, np.full(sky.shape, 100.0), bad, Box.from_shape(sky.shape))


def test_image_smaller_than_a_stamp():
    with pytest.raises(InvalidPsfError):
        measure_psf(
            np.zeros((20, 20), np.float32),
            np.ones((20, 20)),
            np.ones((20, 20)),
            np.zeros((20, 20), bool),
            Box.from_shape((20, 20)),
        )


def test_neighbours_are_no_part_of_the_psf():
    """As many faint stars as there are beams: pixels that they hold have no weight."""
    rng = np.random.default_rng(8)
    scene = make_scene(sigma=2.0, n_stars=36)
    ny, nx = scene.image.shape
    y, x = np.mgrid[:ny, :nx]
    crowd = np.zeros((ny, nx))
    peak = scene.image.max() - np.median(scene.image)
    for _ in range(ny * nx // 400):
        x0, y0, height = rng.uniform(0, nx), rng.uniform(0, ny), peak * 10 ** rng.uniform(-2.5, -0.7)
        crowd += height * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / 2.0**2)
    scene.image[...] += crowd.astype(scene.image.dtype)
    light, sigma, bad = prepare(scene.image)
    bbox = Box.from_shape(scene.image.shape)
    result = measure_psf(light, sigma, scene.true_variance + crowd, bad, bbox)
    grid = sample_psf(result.psf, bbox, grid=3)
    truth = true_stamp(scene, grid.size)
    for stamp in grid.stamps.reshape(-1, grid.size, grid.size):
        assert np.abs(stamp / stamp.max() - truth / truth.max()).max() < 0.12
        assert psf_fwhm(type(grid).constant(stamp)) == pytest.approx(FWHM_PER_SIGMA * 2.0, rel=0.08)


def test_outshone_pixels_are_those_of_neighbours():
    y, x = np.mgrid[:80, :80]
    star, other = (1000.0 * np.exp(-0.5 * ((x - a) ** 2 + (y - b) ** 2) / 4) for a, b in ((40, 40), (52, 44)))
    image, sigma = (star + 0.5 * other).astype("f4"), np.full((80, 80), 1.0)
    sample = StarSample(*(np.array([v]) for v in (40.0, 40.0, 25e3, 1e3, 2.0)))
    found = outshone_pixels(image, sigma, sample, half=18, noise=1.0)[0]
    expected = (0.5 * other > np.maximum(0.5, 0.1 * star))[22:59, 22:59]
    assert (found != expected).mean() < 0.02 and expected.sum() > 100
