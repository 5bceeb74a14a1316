"""Registration by stars: the transform is the one that the second list was made with."""

import numpy as np
import pytest
from astropy.wcs import WCS, Sip
from small_exposures import draw_stars, make_exposure, make_wcs

from lsst.twinkles.diffim.adapters.registration import _transformed_wcs, register_exposure
from lsst.twinkles.diffim.algorithms.warp.register import RegistrationError, register_stars

SIZE = 400.0


def make_lists(transform, *, n=80, kept=0.7, n_false=20, noise=0.05, seed=1):
    """Two lists of which a part is common; the order of brightness differs a little."""
    rng = np.random.default_rng(seed)
    sky = rng.uniform(0, SIZE, (n, 2))
    rank = np.arange(n)
    lists = []
    for number in range(2):
        there = rng.uniform(size=n) < kept
        stars = sky if number == 0 else transform(sky)
        stars = stars[there] + rng.normal(0, noise, (there.sum(), 2))
        false = rng.uniform(0, SIZE, (n_false, 2))
        false = transform(false) if number else false
        brightness = np.concatenate([rank[there], rng.uniform(0, n, n_false)])
        order = np.argsort(brightness + rng.normal(0, 5, len(brightness)))
        lists.append(np.concatenate([stars, false])[order])
    return lists


def linear(*, angle=0.0, scale=1.0, shift=(0.0, 0.0), mirrored=False):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[c, -s], [s, c]]) @ (np.diag([-1.0, 1.0]) if mirrored else np.eye(2))
    return lambda points: points @ matrix.T + shift


def check(registration, transform, *, atol):
    points = np.random.default_rng(9).uniform(0, SIZE, (50, 2))
    x, y = registration.apply(x=points[:, 0], y=points[:, 1])
    np.testing.assert_allclose(np.stack([x, y], axis=1), transform(points), atol=atol)


@pytest.mark.parametrize(
    "transform",
    [
        linear(),
        linear(shift=(7.3, -41.9)),
        linear(angle=2.1, shift=(500.0, 20.0)),
        linear(angle=-0.4, scale=1.9),
        linear(angle=0.3, scale=0.5, shift=(10.0, 5.0), mirrored=True),
    ],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_transform_is_found(transform, seed):
    """From 40 common stars with errors of 0.05 pixels in either list, which a scale of 1.9 makes 0.1."""
    first, second = make_lists(transform, seed=seed)
    registration = register_stars(first, second, min_matched=5)
    assert registration.order == 1
    assert registration.n_matched >= 30
    check(registration, transform, atol=0.15)


def test_distortion_is_found_where_there_are_stars_for_it():
    def transform(points):
        u, v = (points - SIZE / 2).T / SIZE
        return points + np.stack([4.0 * u * u - 3.0 * u * v, 6.0 * v**3], axis=1)

    first, second = make_lists(transform, n=300, noise=0.02, n_false=5)
    registration = register_stars(first, second, min_matched=5)
    assert registration.order == 3
    check(registration, transform, atol=0.05)


def test_same_lists_give_the_same_transform():
    first, second = make_lists(linear(angle=0.2, shift=(3.0, 4.0)))
    a, b = (register_stars(first, second, min_matched=5) for _ in range(2))
    np.testing.assert_array_equal(a.coefficients, b.coefficients)


@pytest.mark.parametrize("seed", range(5))
def test_lists_of_other_sky_are_refused(seed):
    """As many stars as in a crowded field: some meet by chance, and that is not taken for a match."""
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0, SIZE, (2, 400, 2))
    with pytest.raises(RegistrationError) as error:
        register_stars(first, second, min_matched=5)
    assert error.value.n_matched < error.value.n_needed


def test_too_few_stars_are_refused():
    with pytest.raises(RegistrationError, match="of 3 and 9 stars 0 can be matched, 5 are needed"):
        register_stars(np.eye(3, 2) * 50, np.random.default_rng(1).uniform(0, 99, (9, 2)), min_matched=5)


# Exposures ---------------------------------------------------------------------


def make_pair(transform, *, shape=(260, 300), other=(310, 240), seed=4):
    """A reference, and an exposure of another size without coordinates of its own, of the same stars."""
    rng = np.random.default_rng(seed)
    stars = np.stack([rng.uniform(-60, shape[1] + 60, 160), rng.uniform(-60, shape[0] + 60, 160)], axis=1)
    exposures = []
    for size, positions in ((shape, stars), (other, transform(stars))):
        image = draw_stars(size, positions, sigma=1.8, flux=8000.0) + rng.normal(0, 5, size)
        exposures.append(make_exposure(image, variance=25.0, sigma=1.8, wcs=make_wcs(angle=0.7)))
    return (*exposures, stars)


@pytest.mark.parametrize(
    "transform", [linear(shift=(-20.0, 30.0)), linear(angle=0.25, scale=0.97, shift=(40, -25))]
)
def test_stars_stand_at_the_same_places_of_the_sky(transform):
    reference, exposure, stars = make_pair(transform)
    found = register_exposure(exposure, reference)
    there = transform(stars)
    sky = reference.sky_projection.pixel_to_sky(x=stars[:, 0], y=stars[:, 1])
    place = found.exposure.sky_projection.sky_to_pixel(sky)
    offset = np.hypot(place.x - there[:, 0], place.y - there[:, 1])
    assert np.median(offset) < 0.03 and "registered by" in found.exposure.metadata["registered"]
    np.testing.assert_array_equal(found.exposure.image.array, exposure.image.array)
    assert exposure.sky_projection != found.exposure.sky_projection, "the exposure itself is not modified"


def test_coordinates_of_a_reference_with_sip_are_followed():
    """The new WCS is the reference's at the position that the registration leads to."""
    wcs = WCS(make_wcs(crpix=(120.0, 140.0), angle=0.4).to_header())
    wcs.wcs.ctype = "RA---TAN-SIP", "DEC--TAN-SIP"
    a, b = np.zeros((2, 4, 4))
    a[2, 0], a[1, 1], b[0, 2], b[3, 0] = 2e-5, -3e-5, 1e-5, 4e-8
    wcs.sip = Sip(a, b, None, None, (120.0, 140.0))
    transform = linear(angle=-0.3, scale=1.1, shift=(5.0, 9.0))
    first, second = make_lists(transform)
    registration = register_stars(first, second, min_matched=5)
    moved = _transformed_wcs(registration, wcs, (400, 400))
    y, x = np.mgrid[0:400:50, 0:400:50].astype(float)
    there = wcs.pixel_to_world(*registration.apply(x=x, y=y))
    assert moved.pixel_to_world(x, y).separation(there).arcsec.max() < 1e-6
