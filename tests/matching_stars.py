"""Stamps of stars whose matching kernel is known."""

import numpy as np
from scipy.signal import fftconvolve

from lsst.twinkles.diffim.algorithms.match.basis import make_alard_lupton_basis
from lsst.twinkles.diffim.algorithms.match.normal import StampNoise, build_stamp_system
from lsst.twinkles.diffim.algorithms.spatial import chebyshev_terms

SHAPE = (600, 800)
BASIS = make_alard_lupton_basis(np.array([0.8, 1.6, 3.2]), (2, 1, 0), 15)
HALF = 10
SIGMA = 1.5  # of the stars of the image that is convolved
KERNEL_SUM = 1.3


def n_terms(order):
    return (order + 1) * (order + 2) // 2


def true_terms(order, *, seed=0, size=0.05):
    """Coefficients of a kernel near a Gaussian that vary over the image; the sum does not."""
    rng = np.random.default_rng(seed)
    terms = size * rng.normal(size=(len(BASIS), n_terms(order)))
    # The plain Gaussian of the middle width.
    terms[6, 0] += 0.5
    terms[0] = 0.0
    terms[0, 0] = KERNEL_SUM
    return terms


def positions(n, *, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(20, SHAPE[1] - 20, n).round(), rng.uniform(20, SHAPE[0] - 20, n).round()


def kernels(terms, x, y):
    """Kernel images at positions."""
    order = {1: 0, 3: 1, 6: 2, 10: 3}[terms.shape[1]]
    weights = chebyshev_terms(x=x, y=y, shape=SHAPE, order=order) @ terms.T
    return np.tensordot(weights, BASIS.images(), axes=1)


def stars(n, *, flux, seed=0):
    """Stamps with a Gaussian star off the centre of each by a fraction of a pixel."""
    rng = np.random.default_rng(seed)
    half = HALF + BASIS.size // 2
    v, u = np.mgrid[-half : half + 1, -half : half + 1]
    dx, dy = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
    profiles = np.exp(-((u - dx) ** 2 + (v - dy) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
    return profiles * np.broadcast_to(flux, n)[:, None, None]


def match(stamps, kernel):
    """Convolve each stamp with its kernel and cut off what the rim spoils."""
    h = BASIS.size // 2
    return fftconvolve(stamps, kernel, mode="same", axes=(1, 2))[:, h:-h, h:-h]


def system_of(convolved, target, x, y, *, variance=1.0, photon=0.0, model_error=0.0, bad=None):
    """Normal equations with a blank-sky variance of the difference."""
    n = len(target)
    return build_stamp_system(
        convolved.astype("f4"),
        target.astype("f4"),
        bad=np.zeros(target.shape, bool) if bad is None else bad,
        x=x,
        y=y,
        basis=BASIS,
        sky_variance=np.full(n, variance),
        photon_variance=np.full(n, photon),
        model_error=model_error,
        model_index=6,
        noise=StampNoise(sky=np.zeros(n), photon=0.0),
    )
