"""Small pairs of exposures whose every pixel is known: Gaussian stars, a sky, transients, noise."""

import hashlib
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from lsst.images import Box, VisitImage
from lsst.images.fields import ChebyshevField
from small_exposures import make_exposure

SHAPE = (300, 340)
FLUX_SCALE = 1.25
NJY = 3.7  # of one electron of the science image
SKY_VARIANCE = 100.0
SKY = (500.0, 40.0, -25.0)  # level, slopes along x and y from edge to edge


@dataclass(frozen=True)
class Pair:
    """Two exposures on the same pixels, and what is true of them."""

    science: VisitImage
    template: VisitImage
    stars: np.ndarray  # (N, 3): x, y, flux in the science image
    transients: np.ndarray  # the same
    sky: np.ndarray  # of the science image


def draw(shape, sources, sigma):
    """Draw Gaussian sources (x, y, flux) of which the pixels hold samples."""
    image = np.zeros(shape)
    for x, y, flux in sources:
        r = int(np.ceil(7 * sigma))
        i, j = round(x), round(y)
        y0, x0 = max(0, j - r), max(0, i - r)
        part = image[y0 : j + r + 1, x0 : i + r + 1]
        v, w = np.mgrid[: part.shape[0], : part.shape[1]]
        r2 = (w + x0 - x) ** 2 + (v + y0 - y) ** 2
        part += flux * np.exp(-r2 / (2 * sigma**2)) / (2 * np.pi * sigma**2)
    return image


def scatter(rng, shape, n, margin, apart, others=()):
    """Positions at least so far from each other and from others."""
    places = [tuple(o[:2]) for o in others]
    chosen = []
    for _ in range(100 * n):
        if len(chosen) == n:
            break
        place = rng.uniform((margin, margin), (shape[1] - 1 - margin, shape[0] - 1 - margin))
        if all(np.hypot(place[0] - x, place[1] - y) > apart for x, y in places):
            places.append(tuple(place))
            chosen.append(place)
    return np.array(chosen).reshape(-1, 2)


def make_pair(
    *,
    science_sigma=2.2,
    template_sigma=1.6,
    seed=1,
    shape=SHAPE,
    n_stars=30,
    n_transients=0,
    signal_to_noise=30.0,
    noise=1.0,
    start=(0, 0),
    calibrated=True,
    apart=22,
):
    """Make a pair; the transients change in the science image, every third of them fades."""
    rng = np.random.default_rng(seed)
    stars = np.column_stack([scatter(rng, shape, n_stars, 8, 14), 10 ** rng.uniform(3.6, 5.0, n_stars)])
    places = scatter(rng, shape, n_transients, 25, apart, stars)
    # Error of a PSF flux on the noise of both images, about.
    error = np.sqrt(4 * np.pi * SKY_VARIANCE * (science_sigma**2 + FLUX_SCALE**2 * template_sigma**2))
    sign = np.where(np.arange(len(places)) % 3 == 2, -1, 1)
    transients = np.column_stack([places, sign * signal_to_noise * error]).reshape(-1, 3)
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape)[:, None, None]
    sky = SKY[0] + SKY[1] * x + SKY[2] * y
    # What fades has shone in the template.
    in_science = np.vstack([stars, transients[transients[:, 2] > 0]])
    in_template = np.vstack([stars, transients[transients[:, 2] < 0] * [1, 1, -1]]) / [1, 1, FLUX_SCALE]
    exposures = []
    for visit, (sources, sigma, level) in enumerate(
        ((in_science, science_sigma, sky), (in_template, template_sigma, 0.5 * sky[::-1, ::-1])), start=1
    ):
        model = draw(shape, sources, sigma)
        variance = SKY_VARIANCE + model
        image = level + model + noise * rng.normal(size=shape) * np.sqrt(variance)
        value = NJY * (1.0 if visit == 1 else FLUX_SCALE)
        box = Box.from_shape(shape, start=start)
        scaling = ChebyshevField(box, np.array([[value]]), unit=u.nJy / u.electron) if calibrated else None
        exposures.append(
            make_exposure(image, visit=visit, variance=variance, sigma=sigma, start=start, scaling=scaling)
        )
    return Pair(*exposures, stars=stars, transients=transients, sky=sky)


def fingerprint(exposure):
    """Hash of all pixels of an exposure."""
    digest = hashlib.sha256()
    for plane in (exposure.image, exposure.variance, exposure.mask):
        digest.update(np.ascontiguousarray(plane.array).tobytes())
    return digest.hexdigest() + repr(sorted(exposure.metadata.items()))


def gaussian_fluxes(image, positions, sigma, *, half=12):
    """Fluxes of Gaussians of known width at positions (x, y), by plain least squares."""
    fluxes = []
    for x, y in positions:
        i, j = round(x), round(y)
        cut = np.s_[j - half : j + half + 1, i - half : i + half + 1]
        model = draw((2 * half + 1, 2 * half + 1), [(x - i + half, y - j + half, 1.0)], sigma)
        fluxes.append((image[cut] * model).sum() / (model**2).sum())
    return np.array(fluxes)


def away_from(positions, shape, radius):
    """True for pixels farther than a radius from all positions, and from the rim."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    far = np.zeros(shape, bool)
    far[20:-20, 20:-20] = True
    for a, b in positions:
        far &= np.hypot(x - a, y - b) > radius
    return far
