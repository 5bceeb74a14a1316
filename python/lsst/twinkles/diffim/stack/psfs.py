"""Between the PSFs of `lsst.afw` and those of `lsst.images`."""

from __future__ import annotations

__all__ = ("AfwPsf", "psf_to_afw")

from typing import TYPE_CHECKING, Any

import numpy as np

from lsst.images.psfs import PointSpreadFunction

from ..adapters.psfs import sample_psf, square_odd
from ..algorithms.psf_grid import PsfGrid

if TYPE_CHECKING:
    from lsst.images import Box, Image

_ORDER = 3  # of the polynomials in position of a PSF that varies


class AfwPsf(PointSpreadFunction):
    """An `lsst.afw.detection.Psf` that can be evaluated like a PSF of `lsst.images`.

    Parameters
    ----------
    psf : `lsst.afw.detection.Psf`
        PSF.
    bounds : `lsst.images.Box`
        Pixels over which it is wanted.

    Notes
    -----
    Where the afw PSF has no value (the gaps of a coadd) this one raises `lsst.images.BoundsError`, as PSFs of
    `lsst.images` do. It cannot be serialised; `~lsst.twinkles.diffim.adapters.psfs.psf_from_grid` makes one
    that can.
    """

    def __init__(self, psf: Any, bounds: Box) -> None:
        self._psf = psf
        self._bounds = bounds

    @property
    def bounds(self) -> Box:
        """Pixels over which it is wanted (`lsst.images.Box`)."""
        return self._bounds

    @property
    def kernel_bbox(self) -> Box:
        """Box of the stamp at the centre of the bounds (`lsst.images.Box`)."""
        box = self._bounds
        return self.compute_kernel_image(x=box.x.center, y=box.y.center).bbox

    def to_legacy(self) -> Any:
        """Return the afw PSF."""
        return self._psf

    def compute_kernel_image(self, *, x: float, y: float) -> Image:
        """Return the stamp centred on a pixel, square and of odd side."""
        from lsst.images import Image

        stamp = square_odd(self._evaluate("computeKernelImage", x, y).array)
        half = stamp.shape[0] // 2
        return Image(stamp, yx0=(-half, -half))

    def compute_stellar_image(self, *, x: float, y: float) -> Image:
        """Return the stamp of a star at a position."""
        from lsst.images import Image

        image = self._evaluate("computeImage", x, y)
        return Image(np.array(image.array), yx0=(image.getY0(), image.getX0()))

    def compute_stellar_bbox(self, *, x: float, y: float) -> Box:
        """Return the box of that stamp."""
        return self.compute_stellar_image(x=x, y=y).bbox

    def _evaluate(self, method: str, x: float, y: float) -> Any:
        from lsst.afw.detection import InvalidPsfError
        from lsst.geom import Point2D
        from lsst.images import BoundsError
        from lsst.pex.exceptions import InvalidParameterError, RangeError

        try:
            return getattr(self._psf, method)(Point2D(x, y))
        except (InvalidPsfError, InvalidParameterError, RangeError) as error:
            raise BoundsError(f"The PSF has no value at x={x:.1f}, y={y:.1f}: {error}") from error


def psf_to_afw(psf: PointSpreadFunction, bbox: Box) -> Any:
    """Return a PSF as one of the stack (`lsst.meas.algorithms.KernelPsf`).

    Parameters
    ----------
    psf : `lsst.images.psfs.PointSpreadFunction`
        PSF.
    bbox : `lsst.images.Box`
        Pixels over which it is wanted.

    Returns
    -------
    psf : `lsst.afw.detection.Psf`
        The PSF itself if it wraps one of the stack; otherwise stamps sampled on a grid, as polynomials of the
        position. Its average position is the middle of ``bbox``.
    """
    if isinstance(psf, AfwPsf):
        return psf.to_legacy()
    from lsst.afw.math import FixedKernel
    from lsst.geom import Point2D
    from lsst.meas.algorithms import KernelPsf

    grid = sample_psf(psf, bbox)
    if len(grid.x) == len(grid.y) == 1:
        kernel = FixedKernel(_afw_image(grid.mean()))
    else:
        kernel = _varying_kernel(grid, bbox)
    return KernelPsf(kernel, Point2D(bbox.x.center, bbox.y.center))


def _varying_kernel(grid: PsfGrid, bbox: Box) -> Any:
    """Return a linear combination of images with Chebyshev polynomials of the position."""
    from lsst.images.convolution_kernels import ImageBasisConvolutionKernel
    from lsst.images.fields import ChebyshevField

    powers = [
        (p, q)
        for p in range(min(_ORDER, len(grid.y) - 1) + 1)
        for q in range(min(_ORDER, len(grid.x) - 1) + 1)
        if p + q <= _ORDER
    ]
    # The box reaches half a pixel beyond the centres of its first and last pixels.
    x = 2.0 * (grid.x + 0.5) / bbox.x.size - 1.0
    y = 2.0 * (grid.y + 0.5) / bbox.y.size - 1.0
    vander_y = np.polynomial.chebyshev.chebvander(y, _ORDER)
    vander_x = np.polynomial.chebyshev.chebvander(x, _ORDER)
    design = np.stack([np.outer(vander_y[:, p], vander_x[:, q]).ravel() for p, q in powers], axis=1)
    stamps = grid.stamps.reshape(len(design), -1)
    images = np.linalg.lstsq(design, stamps, rcond=None)[0].reshape(-1, grid.size, grid.size)
    fields = []
    for p, q in powers:
        coefficients = np.zeros((p + 1, q + 1))
        coefficients[p, q] = 1.0
        fields.append(ChebyshevField(bbox, coefficients))
    return ImageBasisConvolutionKernel(images, fields).to_legacy()


def _afw_image(array: np.ndarray) -> Any:
    from lsst.afw.image import ImageD
    from lsst.geom import Extent2I

    image = ImageD(Extent2I(array.shape[1], array.shape[0]))
    image.array[...] = array
    return image
