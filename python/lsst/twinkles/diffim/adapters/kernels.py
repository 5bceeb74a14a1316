"""Between the matching kernels of the algorithms and those of `lsst.images`."""

from __future__ import annotations

__all__ = ("evaluate_kernel", "kernel_from_fields", "kernel_from_solution")

from typing import TYPE_CHECKING

import numpy as np

from ..algorithms.match.solve import KernelSolution
from ..algorithms.spatial import chebyshev_coefficients

if TYPE_CHECKING:
    from lsst.images import Box
    from lsst.images.convolution_kernels import ConvolutionKernel, ImageBasisConvolutionKernel


def kernel_from_solution(solution: KernelSolution, bbox: Box) -> ImageBasisConvolutionKernel:
    """Return a kernel that `lsst.images` can serialise.

    Parameters
    ----------
    solution : `~lsst.twinkles.diffim.algorithms.match.solve.KernelSolution`
        Kernel in array coordinates.
    bbox : `lsst.images.Box`
        Pixels it belongs to.

    Returns
    -------
    kernel : `lsst.images.convolution_kernels.ImageBasisConvolutionKernel`
        The same basis images, with Chebyshev fields over ``bbox``.
    """
    from lsst.images.convolution_kernels import ImageBasisConvolutionKernel
    from lsst.images.fields import ChebyshevField

    fields = [ChebyshevField(bbox, matrix) for matrix in solution.coefficient_matrices()]
    return ImageBasisConvolutionKernel(solution.basis.images(), fields)


def kernel_from_fields(
    images: np.ndarray, terms: np.ndarray, order: int, bbox: Box
) -> ImageBasisConvolutionKernel:
    """Return a kernel of images ``(C, S, S)`` with Chebyshev coefficients ``(C, n_terms)`` over a box."""
    from lsst.images.convolution_kernels import ImageBasisConvolutionKernel
    from lsst.images.fields import ChebyshevField

    fields = [ChebyshevField(bbox, chebyshev_coefficients(row, order)) for row in terms]
    return ImageBasisConvolutionKernel(images, fields)


def evaluate_kernel(kernel: ConvolutionKernel, bbox: Box, *, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return kernel images at array positions.

    Parameters
    ----------
    kernel : `lsst.images.convolution_kernels.ConvolutionKernel`
        Kernel.
    bbox : `lsst.images.Box`
        Pixels whose first one is (0, 0) in ``x`` and ``y``.
    x, y : `numpy.ndarray`, ``(N,)``
        Positions; those outside the kernel's bounds take the value of its rim.

    Returns
    -------
    images : `numpy.ndarray`, ``(N, S, S)``, float64
        Kernel images, odd and centred.
    """
    from lsst.images.convolution_kernels import ImageBasisConvolutionKernel

    from .psfs import square_odd

    area = kernel.bounds.bbox
    xs = np.clip(np.asarray(x, float) + bbox.x.start, area.x.start - 0.5, area.x.stop - 0.5)
    ys = np.clip(np.asarray(y, float) + bbox.y.start, area.y.start - 0.5, area.y.stop - 0.5)
    if isinstance(kernel, ImageBasisConvolutionKernel):
        weights = np.stack(
            [np.broadcast_to(field(x=xs, y=ys), xs.shape) for field in kernel.spatial], axis=-1
        )
        return np.tensordot(weights, kernel.basis, axes=1)
    return np.stack(
        [square_odd(kernel.compute_kernel_image(x=a, y=b).array) for a, b in zip(xs, ys, strict=True)]
    )
