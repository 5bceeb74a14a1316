"""What the PSF models say about the kernel, as equations beside those of the stars."""

from __future__ import annotations

__all__ = ("psf_prior_system",)

import numpy as np
import scipy.fft

from ..fourier import transform_stamps
from ..psf_grid import PsfGrid
from .basis import AlardLuptonBasis
from .normal import StampSystem


def psf_prior_system(
    psf_convolved: PsfGrid,
    psf_target: PsfGrid,
    *,
    x: np.ndarray,
    y: np.ndarray,
    basis: AlardLuptonBasis,
    prefilter: np.ndarray,
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
    prefilter : `numpy.ndarray`, ``(side, side // 2 + 1)``
        Filter of the metric of the fit.
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
    pc = transform_stamps(psf_convolved.evaluate(x=x, y=y), side)
    px = transform_stamps(psf_target.evaluate(x=x, y=y), side)
    functions = transform_stamps(basis.images(), side)
    ky = 2j * np.pi * np.fft.fftfreq(side)[:, None]
    kx = 2j * np.pi * np.fft.rfftfreq(side)[None, :]
    gram = np.zeros((len(x), n_basis + 1, n_basis + 1))
    for s in range(len(x)):
        features = scipy.fft.irfft2(functions * pc[s] * prefilter, s=(side, side))
        target = scipy.fft.irfft2(px[s] * prefilter, s=(side, side))
        features[0] -= target
        slopes = scipy.fft.irfft2(np.stack([kx * px[s], ky * px[s]]) * prefilter, s=(side, side)).reshape(
            2, -1
        )
        orthonormal, _ = np.linalg.qr(slopes.T)
        flat = features.reshape(n_basis, -1) / np.sqrt((target**2).sum())
        flat = flat - (flat @ orthonormal) @ orthonormal.T
        gram[s, :n_basis, :n_basis] = flat @ flat.T
    zeros = np.zeros(len(x))
    return StampSystem(
        x=np.asarray(x, float),
        y=np.asarray(y, float),
        gram=gram,
        moment=np.zeros((len(x), n_basis + 1)),
        power=zeros,
        n_pixels=zeros,
    )
