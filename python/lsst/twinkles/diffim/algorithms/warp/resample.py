"""Resampling of an image onto another pixel grid, with Lanczos kernels."""

from __future__ import annotations

__all__ = ("ResampledImage", "make_lanczos_table", "resample_image", "resample_psf")

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from ..in_threads import run_in_threads
from ..psf_grid import PsfGrid
from .lanczos_nb import resample_pixels
from .pixel_map import PixelMap

# Fractions of a pixel for which weights are tabulated; linear interpolation between them is exact to 1e-6.
_N_FRACTIONS = 1000


@dataclass(frozen=True)
class ResampledImage:
    """An image on its new grid.

    Attributes
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Pixels and variances; NaN where there are no data.
    mask : `numpy.ndarray`, ``(Ny, Nx, B)``, uint8
        Bits of all input pixels that weigh in.
    """

    image: np.ndarray
    variance: np.ndarray
    mask: np.ndarray

    @property
    def no_data(self) -> np.ndarray:
        """Where there are no data (`numpy.ndarray`, ``(Ny, Nx)``, bool)."""
        return np.isnan(self.image)


def make_lanczos_table(order: int, *, stretch: float = 1.0) -> np.ndarray:
    """Tabulate the weights of a Lanczos kernel.

    Parameters
    ----------
    order : `int`
        Number ``a`` of lobes on a side: ``L(x) = sinc(x) sinc(x / a)`` for ``|x| < a``.
    stretch : `float`, optional
        Factor by which the kernel is widened, so that an output pixel larger
        than an input pixel averages what lies in it.

    Returns
    -------
    table : `numpy.ndarray`, ``(F + 1, T)``
        For the fractions ``f = 0 ... 1``, weights of the pixels at distances
        ``f + T/2 - 1, ..., f - T/2`` with unit sum.
    """
    if order < 1 or stretch < 1:
        raise ValueError(f"order and stretch must be at least 1, got {order} and {stretch}.")
    taps = 2 * math.ceil(order * stretch)
    fractions = np.linspace(0.0, 1.0, _N_FRACTIONS + 1)
    distance = (fractions[:, None] + taps // 2 - 1 - np.arange(taps)) / stretch
    weights = np.where(np.abs(distance) < order, np.sinc(distance) * np.sinc(distance / order), 0.0)
    weights[np.abs(weights) < 1e-15] = 0.0
    return weights / weights.sum(axis=1, keepdims=True)


def resample_image(
    image: np.ndarray,
    variance: np.ndarray,
    mask: np.ndarray,
    *,
    pixel_map: PixelMap,
    shape: tuple[int, int],
    order: int,
    significant_weight: float,
    valid: np.ndarray | None = None,
) -> ResampledImage:
    """Resample an image of counts per pixel onto another grid.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Hy, Hx)``
        Input pixels and their variances.
    mask : `numpy.ndarray`, ``(Hy, Hx, B)``, uint8
        Mask bytes.
    pixel_map : `PixelMap`
        Input positions of the output pixels.
    shape : `tuple` [`int`, `int`]
        ``(Ny, Nx)`` of the output.
    order : `int`
        Lobes of the Lanczos kernel, 3 to 5.
    significant_weight : `float`
        Input pixels of a smaller absolute weight neither pass on their mask
        bits nor need data.
    valid : `numpy.ndarray`, ``(Hy, Hx)``, bool, optional
        Pixels that have data; those that are not finite never have.

    Returns
    -------
    resampled : `ResampledImage`
        An output pixel is ``A sum(w p)`` with unit-sum weights ``w`` and the
        ratio ``A`` of the pixel areas, so that fluxes are kept; its variance
        is ``A^2 sum(w^2 v)``. Neighbours become correlated.
    """
    image = np.ascontiguousarray(image, dtype=np.float32)
    variance = np.ascontiguousarray(variance, dtype=np.float32)
    has_data = np.isfinite(image) & np.isfinite(variance)
    if valid is not None:
        has_data &= valid
    out = ResampledImage(
        image=np.empty(shape, np.float32),
        variance=np.empty(shape, np.float32),
        mask=np.zeros((*shape, mask.shape[2]), np.uint8),
    )
    table = make_lanczos_table(order, stretch=_find_stretch(pixel_map))
    run_in_threads(
        resample_pixels,
        shape[0],
        image,
        variance,
        np.ascontiguousarray(mask),
        has_data,
        np.ascontiguousarray(pixel_map.x, dtype=float),
        np.ascontiguousarray(pixel_map.y, dtype=float),
        pixel_map.step,
        table,
        significant_weight,
        out.image,
        out.variance,
        out.mask,
    )
    return out


def resample_psf(psf: PsfGrid, pixel_map: PixelMap, *, x: np.ndarray, y: np.ndarray) -> PsfGrid:
    """Return the PSF that a resampled image has.

    Parameters
    ----------
    psf : `PsfGrid`
        PSF of the input image, at positions of the input array.
    pixel_map : `PixelMap`
        Input positions of the output pixels.
    x, y : `numpy.ndarray`, ``(Gx,)`` and ``(Gy,)``
        Output positions of the nodes of the new grid.

    Returns
    -------
    resampled : `PsfGrid`
        Input stamps under the local linear map, with cubic splines, of unit sum.
    """
    xx, yy = (a.ravel() for a in np.meshgrid(x, y))
    x_in, y_in = pixel_map.evaluate(x=xx, y=yy)
    jacobians = pixel_map.jacobian(x=xx, y=yy)
    scale = math.sqrt(float(np.median(np.abs(np.linalg.det(jacobians)))))
    half = math.ceil((psf.size // 2) / scale)
    stamps = np.array(
        [
            _transform_stamp(stamp, jacobian, half)
            for stamp, jacobian in zip(psf.evaluate(x=x_in, y=y_in), jacobians, strict=True)
        ]
    )
    side = 2 * half + 1
    return PsfGrid(stamps=stamps.reshape(len(y), len(x), side, side), x=x, y=y)


def _transform_stamp(stamp: np.ndarray, jacobian: np.ndarray, half: int) -> np.ndarray:
    offsets = np.arange(-half, half + 1, dtype=float)
    dx, dy = np.meshgrid(offsets, offsets)
    centre = stamp.shape[0] // 2
    x_in = jacobian[0, 0] * dx + jacobian[0, 1] * dy + centre
    y_in = jacobian[1, 0] * dx + jacobian[1, 1] * dy + centre
    result = map_coordinates(stamp, [y_in, x_in], order=3, mode="grid-constant", cval=0.0)
    return result / result.sum()


def _find_stretch(pixel_map: PixelMap) -> float:
    """Return the widening that the kernel needs: input pixels along an output pixel, if more than 1."""
    n_y, n_x = pixel_map.x.shape
    jacobian = pixel_map.jacobian(x=pixel_map.step * (n_x - 1) / 2, y=pixel_map.step * (n_y - 1) / 2)[0]
    scale = math.sqrt(abs(float(np.linalg.det(jacobian))))
    # A rotation or a distortion of a percent is no change of scale.
    return scale if scale > 1.02 else 1.0
