"""Simulated bare images for tests of what is made from them: stars on a sky, with the noise of photons."""

from dataclasses import dataclass

import galsim
import numpy as np

FWHM_PER_SIGMA = 2.354820045


@dataclass(frozen=True)
class Scene:
    """A noisy image in pixel units (electrons over ``gain``) and what is true of it."""

    image: np.ndarray
    true_variance: np.ndarray
    model: np.ndarray
    x: np.ndarray
    y: np.ndarray
    flux: np.ndarray
    sigma: float


def make_scene(
    shape=(300, 320),
    *,
    sigma=1.8,
    n_stars=40,
    sky=400.0,
    gain=1.5,
    read_noise=5.0,
    seed=5,
    shear=0.0,
    flux=None,
):
    """Draw Gaussian stars of width ``sigma`` pixels; fluxes, sky and image in pixel units."""
    rng = np.random.default_rng(seed)
    ny, nx = shape
    side = int(np.ceil(np.sqrt(n_stars)))
    # One star in each cell of a grid, so that they stay apart.
    cells = rng.permutation(side**2)[:n_stars]
    x = (cells % side + rng.uniform(0.35, 0.65, n_stars)) * nx / side
    y = (cells // side + rng.uniform(0.35, 0.65, n_stars)) * ny / side
    fluxes = np.full(n_stars, flux) if flux is not None else 10 ** rng.uniform(3.7, 5.0, n_stars)
    model = np.full(shape, float(sky))
    profile = galsim.Gaussian(sigma=sigma).shear(g1=shear)
    for x0, y0, f in zip(x, y, fluxes, strict=True):
        half = 24
        x1, y1 = max(int(x0) - half, 0), max(int(y0) - half, 0)
        x2, y2 = min(int(x0) + half, nx - 1), min(int(y0) + half, ny - 1)
        stamp = galsim.Image(galsim.BoundsI(x1, x2, y1, y2), scale=1.0, dtype=float)
        (profile * f).drawImage(stamp, center=(x0, y0), method="no_pixel")
        model[y1 : y2 + 1, x1 : x2 + 1] += stamp.array
    variance = model / gain + (read_noise / gain) ** 2
    image = rng.poisson(model * gain) / gain + rng.normal(size=shape) * read_noise / gain
    return Scene(image.astype(np.float32), variance, model, x, y, fluxes, sigma)
