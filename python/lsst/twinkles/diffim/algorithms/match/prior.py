"""What the PSF models say about the kernel, as equations beside those of the stars."""

from __future__ import annotations

__all__ = ("prior_kernel", "prior_misfit", "psf_prior_system", "ridge_system", "solve_shape")

import numpy as np
import scipy.fft

from ..fourier import transform_stamps
from ..psf_grid import PsfGrid
from .basis import AlardLuptonBasis
from .normal import StampSystem
from .prefilter import transform_psfs

# Combinations of functions that the models tell apart by less than this of the best are left alone.
_CONDITION = 1e10


def psf_prior_system(
    psf_convolved: PsfGrid,
    psf_target: PsfGrid,
    *,
    x: np.ndarray,
    y: np.ndarray,
    basis: AlardLuptonBasis,
    filters: tuple[np.ndarray, np.ndarray],
    side: int,
) -> StampSystem:
    """Make pseudo-stars of the PSF models that regularise the kernel.

    Parameters
    ----------
    psf_convolved, psf_target : `PsfGrid`
        PSFs of the image to be convolved and of the target.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions of the pseudo-stars in pixels.
    basis : `AlardLuptonBasis`
        Kernel basis.
    filters : `tuple` [`numpy.ndarray`, `numpy.ndarray`]
        Filters of the two at the positions (see `StampFilters`).
    side : `int`
        Side of the transforms.

    Returns
    -------
    system : `StampSystem`
        One entry per position, each with the information of a star of unit
        signal-to-noise; multiply ``gram`` by the square of the wanted one.

    Notes
    -----
    The equation is ``sum_i a_i B_i * P_c = a_0 P_x``: only the shape of the kernel is
    told, not its sum, and, since PSF models know nothing of the registration, not its
    first moments: the derivatives of ``P_x`` are projected out.
    """
    n_basis = len(basis)
    pc, px = transform_psfs(psf_convolved, psf_target, x=x, y=y, side=side)
    pc, px = pc * filters[0], px * filters[1]
    functions = transform_stamps(basis.images(), side)
    ky = 2j * np.pi * np.fft.fftfreq(side)[:, None]
    kx = 2j * np.pi * np.fft.rfftfreq(side)[None, :]
    gram = np.zeros((len(x), n_basis + 1, n_basis + 1))
    for s in range(len(x)):
        features = scipy.fft.irfft2(functions * pc[s], s=(side, side))
        target = scipy.fft.irfft2(px[s], s=(side, side))
        features[0] -= target
        slopes = scipy.fft.irfft2(np.stack([kx * px[s], ky * px[s]]), s=(side, side)).reshape(2, -1)
        orthonormal, _ = np.linalg.qr(slopes.T)
        flat = features.reshape(n_basis, -1) / np.sqrt((target**2).sum())
        flat = flat - (flat @ orthonormal) @ orthonormal.T
        gram[s, :n_basis, :n_basis] = flat @ flat.T
    return _without_data(gram, x, y)


def prior_kernel(system: StampSystem, noise: np.ndarray) -> np.ndarray:
    """Return the one kernel that the PSF models ask for, the best for all positions at once.

    Parameters
    ----------
    system : `StampSystem`
        Pseudo-stars of `psf_prior_system`.
    noise : `numpy.ndarray`, ``(B, B)``
        Covariance of the features for the noise that a pseudo-star is to have, in units of the root of the
        sum of its squares: keeps the kernel from deconvolving what no star shows.

    Returns
    -------
    coefficients : `numpy.ndarray`, ``(B,)``
        Of the basis functions; the first is 1.
    """
    return solve_shape(system.gram[:, :-1, :-1].mean(axis=0) + noise)[0]


def prior_misfit(system: StampSystem) -> float:
    """Return what the best kernels leave of the pseudo-stars.

    Parameters
    ----------
    system : `StampSystem`
        Pseudo-stars of `psf_prior_system`.

    Returns
    -------
    misfit : `float`
        Root mean square over positions of what each kernel leaves, over the pseudo-star's profile.
    """
    return float(np.sqrt(np.mean([solve_shape(gram)[1] for gram in system.gram[:, :-1, :-1]])))


def solve_shape(gram: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the coefficients ``c``, of which the first is 1, with the least ``c gram c``, and this sum."""
    scale = np.sqrt(np.maximum(np.diag(gram)[1:], 1e-300))
    values, vectors = np.linalg.eigh(gram[1:, 1:] / scale[:, None] / scale[None, :])
    keep = values > values[-1] / _CONDITION
    projected = vectors[:, keep].T @ (gram[1:, 0] / scale)
    left = gram[0, 0] - float((projected**2 / values[keep]).sum())
    others = -(vectors[:, keep] @ (projected / values[keep])) / scale
    return np.concatenate([[1.0], others]), max(left, 0.0)


def ridge_system(basis: AlardLuptonBasis, *, x: np.ndarray, y: np.ndarray, strength: float) -> StampSystem:
    """Make equations that hold a kernel to its first function where nothing else determines it.

    Parameters
    ----------
    basis : `AlardLuptonBasis`
        Kernel basis, the first function of which is a delta function.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions at which they hold.
    strength : `float`
        Inverse of the standard deviation that the transform of the kernel, relative to that of the first
        function, may have at any frequency.

    Notes
    -----
    Stars tell nothing of the kernel at frequencies that the PSF suppresses; left alone it would
    take any value there and shape the noise.
    """
    images = basis.images().reshape(len(basis), -1)
    gram = np.zeros((len(x), len(basis) + 1, len(basis) + 1))
    gram[:, 1:-1, 1:-1] = images[1:] @ images[1:].T * (strength**2 / len(x))
    return _without_data(gram, x, y)


def _without_data(gram: np.ndarray, x: np.ndarray, y: np.ndarray) -> StampSystem:
    zeros = np.zeros(len(x))
    return StampSystem(
        x=np.asarray(x, float),
        y=np.asarray(y, float),
        gram=gram,
        moment=np.zeros(gram.shape[:2]),
        power=zeros,
        n_pixels=zeros,
        noise=zeros,
    )
