"""The Alard-Lupton kernel basis: Gaussians times polynomials."""

from __future__ import annotations

__all__ = ("AlardLuptonBasis", "choose_gaussians", "choose_kernel_size", "make_alard_lupton_basis")

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGMA_TO_FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class AlardLuptonBasis:
    """Separable basis functions and the matrix that makes their sums (1, 0, 0, ...).

    Attributes
    ----------
    sigmas : `numpy.ndarray`, ``(G,)``
        Widths of the Gaussians in pixels.
    degrees : `tuple` [`int`, ...]
        Largest total degree of the polynomial of each Gaussian.
    factors : `numpy.ndarray`, ``(F, size)``, float32
        Distinct one-dimensional functions ``u**p exp(-u**2 / 2 sigma**2)``.
    row, column : `numpy.ndarray`, ``(N,)``, int
        Which factor each raw two-dimensional function takes along x and y.
    transform : `numpy.ndarray`, ``(N, N)``
        Lower triangular matrix from raw functions to basis functions.
    """

    sigmas: np.ndarray
    degrees: tuple[int, ...]
    factors: np.ndarray
    row: np.ndarray
    column: np.ndarray
    transform: np.ndarray

    @property
    def size(self) -> int:
        """Side of the kernel stamp in pixels (odd)."""
        return self.factors.shape[1]

    def __len__(self) -> int:
        return len(self.row)

    def images(self) -> np.ndarray:
        """Return the basis functions, ``(N, size, size)`` in (y, x) order, float64."""
        raw = (
            self.factors[self.column].astype(float)[:, :, None]
            * self.factors[self.row].astype(float)[:, None, :]
        )
        return np.tensordot(self.transform, raw, axes=1)


def choose_gaussians(
    *,
    fwhm_convolved: float,
    fwhm_target: float,
    sigmas: Sequence[float],
    beta: float,
    min_sigma: float,
    min_sigma_deconvolution: float,
    scale_by_fwhm: bool,
) -> tuple[np.ndarray, str]:
    """Choose the widths of the Gaussians from the widths of the two PSFs.

    Parameters
    ----------
    fwhm_convolved, fwhm_target : `float`
        FWHM in pixels of the image to be convolved and of the one to be matched.
    sigmas : sequence of `float`
        Widths to use when the FWHMs are equal or unknown, or ``scale_by_fwhm`` is false.
    beta : `float`
        Ratio of successive widths.
    min_sigma, min_sigma_deconvolution : `float`
        Least width in pixels when the target is the wider and the narrower of the two.
    scale_by_fwhm : `bool`
        Use the widths of the PSFs at all.

    Returns
    -------
    sigmas : `numpy.ndarray`
        Widths in pixels, increasing.
    mode : `str`
        ``config``, ``convolution`` or ``deconvolution``.

    Notes
    -----
    The central width is that of the Gaussian which makes one Gaussian PSF of the
    other, ``sqrt(sigma_wide**2 - sigma_narrow**2)``; one narrower by ``beta``
    and one wider by ``beta`` stand beside it (rule of thumb of Israel et al. 2007,
    doi:10.1002/asna.200610668, as the LSST and HOTPANTS codes apply it). Where the narrower
    one would fall below the least width, the central one comes first and the others are
    wider, as in the LSST code: that matches two to five times better than a narrow one
    of the least width.
    """
    known = np.isfinite(fwhm_convolved) and np.isfinite(fwhm_target)
    if not scale_by_fwhm or not known or fwhm_convolved == fwhm_target:
        return np.array(sigmas, dtype=float), "config"
    deconvolve = fwhm_convolved > fwhm_target
    floor = min_sigma_deconvolution if deconvolve else min_sigma
    kernel_sigma = np.sqrt(abs(fwhm_target**2 - fwhm_convolved**2)) / SIGMA_TO_FWHM
    first = kernel_sigma / beta if kernel_sigma / beta >= floor else max(floor, kernel_sigma)
    widths = first * beta ** np.arange(len(sigmas))
    return widths, "deconvolution" if deconvolve else "convolution"


def choose_kernel_size(sigmas: np.ndarray, *, scaling: float, smallest: int, largest: int) -> int:
    """Return the odd side of a kernel of ``scaling`` times the widest sigma, within limits."""
    size = int(scaling * float(np.max(sigmas)))
    size += 1 - size % 2
    return int(np.clip(size, smallest, largest))


def make_alard_lupton_basis(
    sigmas: np.ndarray, degrees: Sequence[int], size: int, *, delta: bool = False
) -> AlardLuptonBasis:
    """Make the basis of Alard & Lupton (1998), doi:10.1086/305984.

    Parameters
    ----------
    sigmas : `numpy.ndarray`, ``(G,)``
        Gaussian widths in pixels.
    degrees : sequence of `int`, length ``G``
        Largest total degree of the polynomial of each Gaussian.
    size : `int`
        Odd side of the kernel stamp in pixels.
    delta : `bool`, optional
        Put a delta function before them.

    Returns
    -------
    basis : `AlardLuptonBasis`
        The first function has unit sum, the others zero sum, so that a kernel
        whose first coefficient does not vary has the same sum everywhere
        (Alard 2000, doi:10.1051/aas:2000214).
    """
    if size % 2 == 0 or size < 3:
        raise ValueError(f"Kernel size must be odd and at least 3, got {size}.")
    if len(sigmas) != len(degrees):
        raise ValueError(f"One degree per Gaussian is needed: {len(sigmas)} widths, {len(degrees)} degrees.")
    pixel = np.arange(size) - size // 2
    unit = pixel / (size // 2)
    factors: list[np.ndarray] = []
    row: list[int] = []
    column: list[int] = []
    if delta:
        factors.append((pixel == 0).astype(float))
        row.append(0)
        column.append(0)
    for sigma, degree in zip(sigmas, degrees, strict=True):
        start = len(factors)
        gaussian = np.exp(-0.5 * (pixel / sigma) ** 2)
        factors += [unit**p * gaussian / gaussian.sum() for p in range(degree + 1)]
        for total in range(degree + 1):
            for p in range(total, -1, -1):
                row.append(start + p)
                column.append(start + total - p)
    f32 = np.array(factors, dtype=np.float32)
    sums = f32.sum(axis=1, dtype=float)
    total_sum = sums[row] * sums[column]
    norm = np.sqrt((f32.astype(float) ** 2).sum(axis=1)[row] * (f32.astype(float) ** 2).sum(axis=1)[column])
    transform = np.diag(1.0 / norm)
    transform[:, 0] -= total_sum / norm / total_sum[0]
    transform[0] = 0.0
    transform[0, 0] = 1.0 / total_sum[0]
    return AlardLuptonBasis(
        sigmas=np.array(sigmas, dtype=float),
        degrees=tuple(int(d) for d in degrees),
        factors=f32,
        row=np.array(row),
        column=np.array(column),
        transform=transform,
    )
