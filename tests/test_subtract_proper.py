"""Proper subtraction: filters, kernels and variances, on images whose PSFs are known."""

from functools import partial

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.signal import fftconvolve
from small_pairs import draw

from lsst.twinkles.diffim.algorithms.convolve import choose_tile_grid, convolve_varying, make_tile_grid
from lsst.twinkles.diffim.algorithms.decorrelate.whiten import propagate_variance
from lsst.twinkles.diffim.algorithms.noise import NoiseMap
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.algorithms.spatial import chebyshev_terms
from lsst.twinkles.diffim.algorithms.subtract.proper import (
    DifferenceFilters,
    ProperFilters,
    fit_kernel_fields,
    matching_kernel,
)

SHAPE = (300, 330)
SIZE = 45  # of PSF stamps


def ellipse(size, sigma_x, sigma_y, dx=0.0, dy=0.0):
    """A Gaussian of unit sum."""
    v, u = np.mgrid[:size, :size] - size // 2
    stamp = np.exp(-((u - dx) ** 2) / (2 * sigma_x**2) - (v - dy) ** 2 / (2 * sigma_y**2))
    return stamp / stamp.sum()


def psf_grid(left, right=None):
    """A PSF that goes over from one pair of widths to another along x."""
    stamps = np.array([[ellipse(SIZE, *left), ellipse(SIZE, *(right or left))]])
    return PsfGrid(stamps=stamps, x=np.array([0.0, SHAPE[1] - 1.0]), y=np.zeros(1))


def noise_map(left, right=None):
    values = np.array([[left, left if right is None else right]], float)
    return NoiseMap(values=values, x=np.array([0.0, SHAPE[1] - 1.0]), y=np.zeros(1))


def constant(stamp):
    return lambda x, y: np.repeat(stamp[None], len(np.atleast_1d(x)), axis=0)


def delta(total, size=21):
    stamp = np.zeros((size, size))
    stamp[size // 2, size // 2] = total
    return stamp


def make_filters(template, science, noise=(40.0, 40.0), flux_scale=1.0, correction=None):
    """Filters of PSFs and noises of template and science; the correction is a flux scale unless given."""
    maps = [n if isinstance(n, NoiseMap) else noise_map(n) for n in noise]
    return DifferenceFilters(
        base=ProperFilters(template, science, *maps),
        correction=constant(delta(flux_scale) if correction is None else correction),
        flux_scale=flux_scale,
    )


# Widths along x and y of template and science.
CASES = {
    "template sharper": make_filters(psf_grid((1.6, 1.6)), psf_grid((2.2, 2.2)), flux_scale=1.4),
    "science sharper": make_filters(psf_grid((2.4, 2.3)), psf_grid((1.6, 1.7)), (90.0, 20.0), 0.7),
    "equal": make_filters(psf_grid((1.9, 1.9)), psf_grid((1.9, 1.9)), (20.0, 60.0)),
    "crossed": make_filters(psf_grid((1.6, 2.3)), psf_grid((2.3, 1.6)), (70.0, 30.0), 1.4),
    "varying": make_filters(
        psf_grid((1.6, 2.0), (2.1, 1.7)),
        psf_grid((2.1, 1.8), (1.8, 2.0)),
        (noise_map(60.0, 90.0), noise_map(50.0, 30.0)),
        1.2,
    ),
}


def subtract(filters, science, template, *, side=200):
    """Difference of two images with the filters of each position."""
    grid = choose_tile_grid(science.shape, halo=16, side=side, error=filters.noise_loss, largest_error=0.02)

    def pair(x, y):
        a, b = filters.pair(x, y, grid.side)
        return [a, -b]

    images = [i.astype(np.float32) for i in (science, template)]
    return convolve_varying(images, pair, grid, workers=1).astype(float)


def correlation(image, dy, dx):
    a = image[dy:, dx:] if dx >= 0 else image[dy:, :dx]
    b = image[: image.shape[0] - dy, : image.shape[1] - dx] if dx >= 0 else image[: image.shape[0] - dy, -dx:]
    return float((a * b).mean() / (image**2).mean())


@pytest.mark.parametrize(("name", "side", "least"), [("varying", 330, 0.05), ("crossed", 330, 0.0)])
def test_what_interpolated_filters_lose_is_known_and_smaller_tiles_lose_less(name, side, least):
    filters = CASES[name]
    shape, rng = (900, 300), np.random.default_rng(4)
    grid = make_tile_grid(shape, halo=32, side=side)
    loss = filters.noise_loss(grid)
    assert (loss > least) if least else abs(loss) < 1e-5
    # The noise in the middle columns of the tiles, of which each has the same along x.
    template, science = (
        rng.normal(size=shape) * np.sqrt(sky.image(shape))
        for sky in (filters.base.sky_template, filters.base.sky_science)
    )

    def pair(x, y):
        a, b = filters.pair(x, y, grid.side)
        return [a, -b]

    white = convolve_varying([i.astype(np.float32) for i in (science, template)], pair, grid, workers=1)
    white = white[20:-20] / np.sqrt(filters.sky_image(shape))[20:-20]
    middles = [round((a + b) / 2) for a, b in zip(grid.node_x, grid.node_x[1:], strict=False)]
    measured = min(white[:, m - 15 : m + 15].var() for m in middles if m + 15 < shape[1])
    assert measured == pytest.approx(1.0 - loss, abs=4 * np.sqrt(2 / (30 * len(white))))
    finer = make_tile_grid(shape, halo=32, side=100)
    assert filters.noise_loss(finer) < 0.3 * loss + 1e-5


@pytest.mark.parametrize("name", CASES)
def test_filters_keep_fluxes_and_give_both_images_one_psf(name):
    filters, side = CASES[name], 64
    x, y = np.array([20.0, 250.0]), np.array([30.0, 200.0])
    a, b = filters.pair(x, y, side)
    np.testing.assert_allclose(a[:, 0, 0], 1.0, atol=1e-5)
    np.testing.assert_allclose(b[:, 0, 0], filters.flux_scale, rtol=1e-5)
    base = filters.base(x=x, y=y, side=side, flux_scale=filters.flux_scale)
    for transform in base:
        np.testing.assert_allclose(transform[:, 0, 0], 1.0, atol=1e-5)
    # a P_s = b P_t / f, with transforms of the very stamps.
    for i in range(2):
        ps, pt = (
            np.fft.rfft2(np.fft.ifftshift(psf.evaluate(x=x[i], y=y[i])), s=(SIZE, SIZE))
            for psf in (filters.base.psf_science, filters.base.psf_template)
        )
        a, b = (t[i] for t in filters.pair(x, y, SIZE))
        np.testing.assert_allclose(a * ps, b * pt / filters.flux_scale, atol=3e-6)


@pytest.mark.parametrize("name", CASES)
def test_noise_is_white_and_its_variance_is_as_claimed(name):
    filters, rng = CASES[name], np.random.default_rng(1)
    template, science = (
        rng.normal(size=SHAPE) * np.sqrt(sky.image(SHAPE))
        for sky in (filters.base.sky_template, filters.base.sky_science)
    )
    white = subtract(filters, science, template) / np.sqrt(filters.sky_image(SHAPE))
    inner = white[20:-20, 20:-20]
    # 75 000 pixels: a standard error of 0.0037 on a correlation, and of 0.5 percent on the variance.
    for lag in ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 3), (3, 0)):
        assert abs(correlation(inner, *lag)) < 4 * inner.size**-0.5, lag
    assert inner.var() == pytest.approx(1.0, abs=0.02)
    for part in np.array_split(inner, 3, axis=1):
        assert part.var() == pytest.approx(1.0, abs=4 * np.sqrt(2 / part.size))


STARS = np.array([(60.3, 70.6, 1e4), (200.0, 80.2, 2e4), (120.5, 220.5, 1e4), (260.7, 240.1, 3e4)])


def peak(filters):
    """Peak of the PSF of the difference in the middle of the image."""
    x, y = np.array([SHAPE[1] / 2]), np.array([SHAPE[0] / 2])
    return filters.psf(x=x, y=y, size=SIZE, side=2 * SIZE).stamps.max()


def draw_ellipses(stars, sigma_x, sigma_y, correction=None):
    image = np.zeros(SHAPE)
    for x, y, flux in stars:
        i, j = round(x), round(y)
        cut = np.s_[j - SIZE // 2 : j + SIZE // 2 + 1, i - SIZE // 2 : i + SIZE // 2 + 1]
        image[cut] += flux * ellipse(SIZE, sigma_x, sigma_y, x - i, y - j)
    return image


@pytest.mark.parametrize("name", ["template sharper", "science sharper", "equal", "crossed"])
def test_static_stars_cancel(name):
    widths = {
        "template sharper": ((1.6, 1.6), (2.2, 2.2)),
        "science sharper": ((2.4, 2.3), (1.6, 1.7)),
        "equal": ((1.9, 1.9), (1.9, 1.9)),
        "crossed": ((1.6, 2.3), (2.3, 1.6)),
    }[name]
    filters = CASES[name]
    template = draw_ellipses(STARS / [1, 1, filters.flux_scale], *widths[0])
    science = draw_ellipses(STARS, *widths[1])
    left = np.abs(subtract(filters, science, template)).max()
    assert left < 1e-4 * STARS[:, 2].max() * peak(filters)


def test_what_the_models_lack_is_in_the_correction():
    # The science image is shifted, and a little wider than its model says.
    lack = ellipse(21, 0.8, 0.7, 0.25, -0.1)
    widths = (1.6, 2.0), (2.0, 1.9)
    science = draw_ellipses(STARS + np.array([0.25, -0.1, 0.0]), np.hypot(2.0, 0.8), np.hypot(1.9, 0.7))
    template = draw_ellipses(STARS / [1, 1, 1.3], *widths[0])
    scale = 1e-4 * STARS[:, 2].max()
    models = psf_grid(widths[0]), psf_grid(widths[1])
    without = make_filters(*models, flux_scale=1.3)
    filters = make_filters(*models, flux_scale=1.3, correction=1.3 * lack)
    # Sampled Gaussians as narrow as this one are not quite those that were convolved.
    assert np.abs(subtract(filters, science, template)).max() < 10 * scale * peak(filters)
    assert np.abs(subtract(without, science, template)).max() > 200 * scale * peak(filters)
    # The noise stays white with it.
    x, y = np.array([100.0]), np.array([90.0])
    a, b = filters.pair(x, y, 64)
    power = 40 * np.abs(a) ** 2 + 40 * np.abs(b) ** 2
    np.testing.assert_allclose(power, filters.sky_image((1, 1))[0, 0], rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_psf_of_the_difference_predicts_a_transient(name):
    filters, zero, flux = CASES[name], np.zeros(SHAPE), 1e4
    half = SIZE // 2
    for x, y in ((165, 150), (60, 230), (290, 60)):
        place = np.array([float(x)]), np.array([float(y)])
        predicted = filters.psf(x=place[0], y=place[1], size=SIZE, side=2 * SIZE).stamps[0, 0]
        assert predicted.sum() == pytest.approx(1.0)
        cut = np.s_[y - half : y + half + 1, x - half : x + half + 1]
        for psf, sign in ((filters.base.psf_science, 1), (filters.base.psf_template, -1)):
            image = zero.copy()
            image[cut] = flux * psf.evaluate(x=float(x), y=float(y))
            if sign > 0:
                added = subtract(filters, image, zero)
            else:
                added = subtract(filters, zero, image / filters.flux_scale)
            assert added.sum() == pytest.approx(sign * flux, rel=2e-3)
            # The filters vary under the source in one of the cases.
            error = np.abs(added[cut] - sign * flux * predicted).max()
            assert error < (1e-2 if name == "varying" else 1e-3) * flux * predicted.max()


def test_filters_do_not_move_the_image():
    # Stamps off their centre, as those of lopsided PSFs: only what the two do not have in common counts.
    shift = 0.4, -0.3
    models = (PsfGrid.constant(ellipse(SIZE, *widths, *shift)) for widths in ((1.6, 1.7), (2.2, 2.0)))
    filters, place = make_filters(*models), np.array([100.0])
    v, u = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    stamp = filters.psf(x=place, y=place, size=SIZE, side=2 * SIZE).stamps[0, 0]
    assert (stamp * u).sum() == pytest.approx(shift[0], abs=0.02)
    assert (stamp * v).sum() == pytest.approx(shift[1], abs=0.02)


def test_psf_of_the_difference_on_a_grid():
    filters = CASES["varying"]
    x, y = np.linspace(0, SHAPE[1] - 1, 3), np.linspace(0, SHAPE[0] - 1, 2)
    grid = filters.psf(x=x, y=y, size=35, side=70)
    assert grid.stamps.shape == (2, 3, 35, 35)
    for j, i in ((0, 0), (1, 2)):
        alone = filters.psf(x=x[i : i + 1], y=y[j : j + 1], size=35, side=70).stamps[0, 0]
        np.testing.assert_allclose(grid.stamps[j, i], alone, atol=1e-7)
    assert np.abs(grid.stamps[0, 0] - grid.stamps[0, 2]).max() > 0.01 * grid.stamps.max()


def test_the_sharper_of_two_differences_has_the_sharper_psf():
    # A deep template leaves the science image as it is: its filter is a delta function.
    deep = make_filters(psf_grid((1.6, 1.6)), psf_grid((2.2, 2.2)), (1e-6, 40.0))
    place = np.array([100.0])
    stamp = deep.psf(x=place, y=place, size=SIZE, side=2 * SIZE).stamps[0, 0]
    np.testing.assert_allclose(stamp, ellipse(SIZE, 2.2, 2.2), atol=1e-4)
    assert peak(CASES["template sharper"]) > 1.05 * stamp.max()


def test_extent_holds_both_filters():
    filters = CASES["crossed"]
    extents = [filters.extent(x=100.0, y=100.0, tolerance=t) for t in (1e-2, 1e-4, 1e-6)]
    assert extents == sorted(extents) and extents[0] < extents[-1] < 64
    place = np.array([100.0])
    energy = sum(
        np.fft.fftshift(np.fft.irfft2(t[0], s=(256, 256))) ** 2 for t in filters.pair(place, place, 256)
    )
    for half, tolerance in zip(extents, (1e-2, 1e-4, 1e-6), strict=True):
        inner = energy[128 - half : 129 + half, 128 - half : 129 + half].sum()
        assert inner >= (1 - 1.1 * tolerance) * energy.sum()


@pytest.mark.parametrize("reverse", [False, True])
def test_matching_kernel_makes_one_psf_of_the_other(reverse):
    narrow, wide, total = (1.6, 1.7), (2.3, 2.1), 1.3
    template, science = (wide, narrow) if reverse else (narrow, wide)
    shift = ellipse(21, 0.9, 0.9, 0.3, -0.2)
    correction = total * shift
    filters = make_filters(psf_grid(template), psf_grid(science), flux_scale=total, correction=correction)
    place = np.array([50.0, 200.0])
    kernels = matching_kernel(filters, x=place, y=place, size=31, reverse=reverse)
    assert kernels.shape == (2, 31, 31)
    expected_sum = 1 / total if reverse else total
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), expected_sum, rtol=1e-9)
    v, u = np.mgrid[:31, :31] - 15
    sign = -1 if reverse else 1
    for kernel in kernels:
        assert (kernel * u).sum() / kernel.sum() == pytest.approx(sign * 0.3, abs=0.01)
        assert (kernel * v).sum() / kernel.sum() == pytest.approx(-sign * 0.2, abs=0.01)
    # Light of the template as it is, and of the science image as the correction says.
    side = 128
    shifted = ellipse(SIZE, np.hypot(science[0], 0.9), np.hypot(science[1], 0.9), 0.3, -0.2)
    seen = [np.fft.rfft2(stamp, s=(side, side)) for stamp in (ellipse(SIZE, *template), shifted)]
    source, goal = seen[::-1] if reverse else seen
    transform = np.fft.rfft2(np.fft.ifftshift(np.pad(kernels[0], ((49, 48), (49, 48)))))
    error = np.fft.irfft2(source * transform - expected_sum * goal)
    assert np.abs(error).max() < 5e-3 * expected_sum * np.fft.irfft2(goal).max()


def test_kernel_fields_are_the_kernels():
    rng = np.random.default_rng(3)
    parts = np.array([ellipse(15, s, s) for s in (1.0, 2.0, 3.0)])
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 329, 7), np.linspace(0, 299, 7)))

    def kernels(x, y):
        terms = chebyshev_terms(x=x, y=y, shape=SHAPE, order=4)
        weights = terms @ coefficients
        return np.tensordot(weights, parts, axes=1)

    coefficients = 0.1 * rng.normal(size=(15, 3))
    coefficients[0, 0] += 1.0
    settings = {"shape": SHAPE, "order": 4, "tolerance": 1e-8}
    images, terms = fit_kernel_fields(kernels(x, y), x=x, y=y, **settings)
    assert len(images) == len(terms) == 4 and terms.shape == (4, 15)  # the mean and three components
    elsewhere = rng.uniform(0, 329, 20), rng.uniform(0, 299, 20)
    weights = chebyshev_terms(x=elsewhere[0], y=elsewhere[1], shape=SHAPE, order=4) @ terms.T
    np.testing.assert_allclose(np.tensordot(weights, images, axes=1), kernels(*elsewhere), atol=1e-9)
    coarse, _ = fit_kernel_fields(kernels(x, y), x=x, y=y, shape=SHAPE, order=4, tolerance=0.05)
    assert len(coarse) < 4


def test_kernel_fields_of_a_constant_kernel():
    x, y = (a.ravel() for a in np.meshgrid(np.linspace(0, 329, 7), np.linspace(0, 299, 7)))
    kernels = np.repeat(ellipse(15, 2.0, 1.5)[None], 49, axis=0)
    images, terms = fit_kernel_fields(kernels, x=x, y=y, shape=SHAPE, order=4, tolerance=1e-5)
    weights = chebyshev_terms(x=np.array([12.0]), y=np.array([77.0]), shape=SHAPE, order=4) @ terms.T
    np.testing.assert_allclose(np.tensordot(weights, images, axes=1)[0], kernels[0], atol=1e-12)


@pytest.mark.parametrize("name", ["template sharper", "crossed"])
def test_variance_of_sources_is_that_of_realisations(name):
    filters, rng, shape, n = CASES[name], np.random.default_rng(4), (96, 96), 300
    excess = draw(shape, [(40.0, 45.0, 4e4)], 2.2), draw(shape, [(60.0, 50.0, 6e4)], 1.8)
    sky = np.full(shape, 50.0)
    predicted = propagate_variance(
        *(e.astype(np.float32) for e in excess), filters=filters.pair, sky=sky
    ).astype(float)
    total = np.zeros(shape)
    for _ in range(n):
        science, template = (rng.normal(size=shape) * np.sqrt(e) for e in excess)
        total += subtract(filters, science, template) ** 2
    found = 50.0 + total / n
    inner = np.s_[30:70, 25:80]
    assert predicted[inner].max() > 10 * 50.0
    assert (predicted - 50)[inner].sum() == pytest.approx((found - 50)[inner].sum(), rel=0.03)
    # The plane is coarser than its pixels. Means of 25: realisations of 300 scatter by 2 percent.
    ratio = uniform_filter(predicted, 5) / uniform_filter(found, 5)
    bright = predicted[inner] > 5 * 50.0
    assert bright.sum() > 30
    np.testing.assert_allclose(ratio[inner][bright], 1.0, atol=0.4)
    assert np.median(ratio[inner][bright]) == pytest.approx(1.0, abs=0.1)
    np.testing.assert_allclose([ratio[45, 40], ratio[50, 60]], 1.0, atol=0.15)
    np.testing.assert_allclose(predicted[:15], 50.0, atol=0.5)


def test_without_sources_the_variance_is_that_of_the_sky():
    sky = np.linspace(40, 60, 50 * 60).reshape(50, 60)
    none = np.zeros(sky.shape, np.float32)
    variance = propagate_variance(none, none, filters=CASES["equal"].pair, sky=sky)
    np.testing.assert_allclose(variance, sky, rtol=1e-6)
    assert variance.dtype == np.float32


def measured(sigma, seed):
    """A PSF as one is measured: with noise, which is all that it has at the highest frequencies."""
    stamp = ellipse(SIZE, sigma, sigma)
    stamp = stamp + np.random.default_rng(seed).normal(0, 3e-6, stamp.shape)
    return PsfGrid.constant(stamp / stamp.sum())


def test_filters_that_do_not_fit_leave_no_ghosts_of_stars():
    """The noise in two measured PSFs makes filters as long as one likes; their cut must not be seen."""
    filters = make_filters(measured(2.6, 1), measured(2.2, 2))
    assert filters.extent(x=150.0, y=150.0, tolerance=1e-6) > 64
    images, true = [], (filters.base.psf_science, filters.base.psf_template)
    for psf in true:
        image = np.zeros(SHAPE, np.float32)
        image[150 - SIZE // 2 : 150 + SIZE // 2 + 1, 165 - SIZE // 2 : 165 + SIZE // 2 + 1] = psf.stamps[0, 0]
        images.append(image)
    grid = make_tile_grid(SHAPE, halo=64, side=360)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    far = np.maximum(np.abs(y - 150), np.abs(x - 165)) > 40
    left = {}
    for taper in (0, 24):
        pair = partial(filters.compact, half=64, side=grid.side, taper=taper)
        difference = convolve_varying(images, pair, grid, workers=1, tolerance=1e-5)
        left[taper] = np.abs(gaussian_filter(difference, 2.0))[far].max()
    assert left[24] < 0.1 * left[0], left
    assert left[24] < 2e-6, left


def test_filters_that_are_longer_than_elsewhere_leave_no_ghosts_either():
    """Where PSFs are clean filters are short; they are not where these were measured, at the right."""
    clean = [ellipse(SIZE, sigma, sigma) for sigma in (2.6, 2.2)]
    noisy = [measured(sigma, seed).stamps[0, 0] for sigma, seed in ((2.6, 1), (2.2, 2))]
    ends = np.array([0.0, SHAPE[1] - 1.0])
    psfs = [PsfGrid(np.stack(pair)[None], ends, np.zeros(1)) for pair in zip(clean, noisy, strict=True)]
    filters = make_filters(*psfs)
    halo = filters.extent(x=0.0, y=150.0, tolerance=1e-6)
    assert halo < 50 and filters.extent(x=250.0, y=150.0, tolerance=1e-6) > halo
    images = []
    for psf in (filters.base.psf_science, filters.base.psf_template):
        image = np.zeros(SHAPE, np.float32)
        at = np.s_[150 - SIZE // 2 : 150 + SIZE // 2 + 1, 250 - SIZE // 2 : 250 + SIZE // 2 + 1]
        image[at] = psf.evaluate(x=250.0, y=150.0)
        images.append(image)
    grid = make_tile_grid(SHAPE, halo=halo, side=180)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    far = np.maximum(np.abs(y - 150), np.abs(x - 250)) > halo - 10
    left = {}
    for taper in (0, 8):
        pair = partial(filters.compact, half=halo, side=grid.side, taper=taper)
        difference = convolve_varying(images, pair, grid, workers=1, tolerance=1e-5)
        left[taper] = np.abs(gaussian_filter(difference, 2.0))[far].max()
    assert left[8] < 0.25 * left[0], left


def test_matched_stars_have_no_rings():
    """A kernel from two measured PSFs, cut to its size, turns one into the other and adds nothing around."""
    filters = make_filters(measured(2.3, 1), measured(2.4, 2))
    source, goal = (psf.stamps[0, 0] for psf in (filters.base.psf_template, filters.base.psf_science))
    (kernel,) = matching_kernel(filters, x=np.array([150.0]), y=np.array([150.0]), size=33, reverse=False)
    matched = fftconvolve(np.pad(source, 20), kernel, mode="same")
    y, x = np.mgrid[: matched.shape[0], : matched.shape[1]] - matched.shape[0] // 2
    around = np.maximum(abs(x), abs(y)) > 10
    left = np.abs(gaussian_filter(matched - np.pad(goal, 20), 1.5))[around].max()
    assert left < 1e-3 * goal.max()  # 3e-2 if it is cut off sharply
