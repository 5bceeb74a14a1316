"""Dipoles: parameters and errors, and their difference from what changes."""

import numpy as np
import pytest
from point_scenes import ERROR, FIT, FWHM, NOISE, PSF, SIGMA, lattice, scene, weights

from lsst.twinkles.diffim.algorithms.detect.peaks import find_peaks
from lsst.twinkles.diffim.algorithms.detect.score import significance_image
from lsst.twinkles.diffim.algorithms.measure.dipole import fit_dipole_sources
from lsst.twinkles.diffim.algorithms.measure.psf_fit import fit_point_sources
from lsst.twinkles.diffim.tasks.plugins.dipole import DipolePlugin

# Error of a PSF flux on the difference of two images of this noise.
DIFFERENCE_ERROR = np.sqrt(2) * ERROR
SHIFT = 0.1
N = 12
STEP = 60
SHAPE = (N * STEP, N * STEP)


def shifted_scene(seed, decades, width):
    """Science and template of static sources that lie 0.1 pixels apart in a random direction."""
    rng = np.random.default_rng(seed)
    x, y = lattice(N, STEP, seed)
    angle = rng.uniform(0, 2 * np.pi, N * N)
    dx, dy = SHIFT * np.cos(angle), SHIFT * np.sin(angle)
    flux = DIFFERENCE_ERROR * 10 ** rng.uniform(*decades, N * N)
    sigma = np.hypot(SIGMA, rng.uniform(*width, N * N))
    science = scene(SHAPE, x + dx / 2, y + dy / 2, flux, sigma)
    template = scene(SHAPE, x - dx / 2, y - dy / 2, flux, sigma)
    return science, template, {"x": x, "y": y, "flux": flux, "dx": dx, "dy": dy}


def measure(science, template, seed):
    """Add noise, subtract, detect, fit."""
    rng = np.random.default_rng(seed)
    science, template = (a + rng.normal(0, NOISE, SHAPE) for a in (science, template))
    difference = science - template
    variance = np.full(SHAPE, 2 * NOISE**2, np.float32)
    score = significance_image(
        difference.astype("f4"), variance, np.zeros(SHAPE, bool), PSF, min_coverage=0.5, side=360
    )
    peaks = find_peaks(score, threshold=5.0, radius=2)
    weight = 1 / variance
    fits = fit_point_sources(difference, weight, PSF, x=peaks.x, y=peaks.y, **FIT)
    dipoles = fit_dipole_sources(
        (difference, science, template),
        (weight, weights(SHAPE), weights(SHAPE)),
        (PSF, PSF, PSF),
        fits,
        np.ones(len(fits.x), bool),
        half=10,
        fwhm=FWHM,
        partner_radius=2 * FWHM,
        max_separation=2 * FWHM,
        relative_weight=1.0,
        iterations=25,
    )
    return fits, dipoles, DipolePlugin()._classify(dipoles, FWHM)


@pytest.fixture(scope="module")
def stars():
    science, template, truth = shifted_scene(1, (2.2, 3.3), (0.0, 0.0))
    return *measure(science, template, 2), truth


def test_stars_out_of_register_are_dipoles(stars):
    _, _, is_dipole, _ = stars
    assert len(is_dipole) > N * N and np.mean(is_dipole) >= 0.98


def test_galaxies_out_of_register_are_dipoles():
    science, template, _ = shifted_scene(3, (2.6, 3.6), (0.5, 3.0))
    _, _, is_dipole = measure(science, template, 4)
    assert len(is_dipole) > N * N and np.mean(is_dipole) >= 0.95


def test_parameters_of_dipoles_and_their_errors(stars):
    _, dipoles, _, truth = stars
    nearest = np.hypot(dipoles.x[:, None] - truth["x"], dipoles.y[:, None] - truth["y"]).argmin(axis=1)
    _, first = np.unique(nearest, return_index=True)  # one row a dipole
    for name in ("flux", "x", "y", "dx", "dy"):
        errors = getattr(dipoles, f"{name}_error")
        pulls = ((getattr(dipoles, name) - truth[name][nearest]) / errors)[first]
        assert abs(np.nanmean(pulls)) < 4 / np.sqrt(len(first)), name
        assert np.nanstd(pulls) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(first))), name
    pulls = (dipoles.flux_difference / dipoles.flux_difference_error)[first]
    assert abs(np.mean(pulls)) < 0.35 and np.std(pulls) == pytest.approx(1.0, abs=0.24)
    separation = np.hypot(dipoles.dx, dipoles.dy)
    assert np.nanmedian(separation) == pytest.approx(SHIFT, rel=0.05)


def fit_at(science, template, places, seed):
    """Add noise, subtract, fit at places that are known."""
    rng = np.random.default_rng(seed)
    science, template = (a + rng.normal(0, NOISE, SHAPE) for a in (science, template))
    difference, weight = science - template, weights(SHAPE) / 2
    fits = fit_point_sources(difference, weight, PSF, x=places[0], y=places[1], **FIT)
    return fit_dipole_sources(
        (difference, science, template),
        (weight, weights(SHAPE), weights(SHAPE)),
        (PSF, PSF, PSF),
        fits,
        np.ones(N * N, bool),
        half=10,
        fwhm=FWHM,
        partner_radius=2 * FWHM,
        max_separation=2 * FWHM,
        relative_weight=1.0,
        iterations=25,
    )


@pytest.mark.parametrize("hosted", [False, True])
def test_moments_of_stars_that_moved_whatever_lies_behind_them(hosted):
    """Separations of 0.05 to 1 FWHM; what stays in place counts in the flux, not in the moment."""
    rng = np.random.default_rng(13)
    x, y = lattice(N, STEP, 14)
    d, angle = FWHM * 10 ** rng.uniform(-1.3, 0, N * N), rng.uniform(0, 2 * np.pi, N * N)
    dx, dy = d * np.cos(angle), d * np.sin(angle)
    flux = 20 * DIFFERENCE_ERROR * FWHM / d * 10 ** rng.uniform(-0.3, 0.5, N * N)
    offset = rng.normal(0, 2.0, (2, N * N))
    behind = scene(SHAPE, x + offset[0], y + offset[1], 0.5 * flux * hosted, np.hypot(SIGMA, 2.0))
    images = (scene(SHAPE, x + s * dx, y + s * dy, flux) + behind for s in (0.5, -0.5))
    dipoles = fit_at(*images, (x, y), 15)
    along = (dipoles.moment_x * dx + dipoles.moment_y * dy) / d - flux * d
    across = (dipoles.moment_y * dx - dipoles.moment_x * dy) / d
    ux, uy, xy = dx / d, dy / d, dipoles.moment_covariance
    xx, yy = dipoles.moment_x_error**2, dipoles.moment_y_error**2
    pulls = {
        "along": along / np.sqrt(ux**2 * xx + uy**2 * yy + 2 * ux * uy * xy),
        "across": across / np.sqrt(uy**2 * xx + ux**2 * yy - 2 * ux * uy * xy),
    }
    for name, values in pulls.items():
        assert abs(np.mean(values)) < 4 / N, name
        assert np.std(values) == pytest.approx(1.0, abs=4 / np.sqrt(2) / N), name
    excess = (dipoles.flux - flux) / dipoles.flux_error
    assert np.median(excess) > 5 if hosted else abs(np.median(excess)) < 0.35


@pytest.mark.parametrize("on_galaxies", [False, True])
def test_transients_are_no_dipoles(on_galaxies):
    rng = np.random.default_rng(5)
    x, y = lattice(N, STEP, 6)
    galaxies = scene(SHAPE, x, y, DIFFERENCE_ERROR * 10 ** rng.uniform(1, 2.6, N * N), np.hypot(SIGMA, 2.0))
    galaxies = galaxies if on_galaxies else np.zeros(SHAPE)
    change = DIFFERENCE_ERROR * 10 ** rng.uniform(0.8, 2, N * N) * rng.choice([-1, 1], N * N)
    offset = rng.normal(0, 2.0, (2, N * N))
    _, _, is_dipole = measure(galaxies + scene(SHAPE, x + offset[0], y + offset[1], change), galaxies, 7)
    assert len(is_dipole) > 0.9 * N * N and np.mean(is_dipole) < 0.01


def test_close_pairs_that_vary_are_no_dipoles():
    # Images of quasars of either sign, 0.6 to 2 FWHM apart, over what they have in both images.
    rng = np.random.default_rng(8)
    x, y = lattice(N, STEP, 9)
    angle, distance = rng.uniform(0, 2 * np.pi, N * N), rng.uniform(0.6, 2.0, N * N) * FWHM
    x2, y2 = x + distance * np.cos(angle), y + distance * np.sin(angle)
    static = scene(SHAPE, np.r_[x, x2], np.r_[y, y2], 20 * DIFFERENCE_ERROR)
    change, change2 = DIFFERENCE_ERROR * 10 ** rng.uniform(0.8, 2, (2, N * N)) * [[1], [1]]
    change2 *= rng.choice([-1, 1], N * N)
    science = static + scene(SHAPE, x, y, change) + scene(SHAPE, x2, y2, change2)
    _, _, is_dipole = measure(science, static, 10)
    assert len(is_dipole) > 1.5 * N * N
    assert np.mean(is_dipole) < 0.02


def test_a_variable_star_is_no_dipole():
    x, y = lattice(N, STEP, 11)
    template = scene(SHAPE, x, y, 300 * DIFFERENCE_ERROR)
    _, _, is_dipole = measure(1.05 * template, template, 12)
    assert len(is_dipole) == N * N and not is_dipole.any()
