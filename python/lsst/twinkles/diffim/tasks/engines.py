"""What the methods of subtraction have in common: roles of the images, and the result."""

from __future__ import annotations

__all__ = (
    "Exposures",
    "Roles",
    "Subtraction",
    "convolved_noise",
    "measure_excess",
    "scale_template_sky",
    "template_scale",
)

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..algorithms.decorrelate.whiten import source_variance
from ..algorithms.noise import NoiseMap
from ..algorithms.spatial import chebyshev_coefficients
from ..algorithms.subtract.prepare import PreparedImage

if TYPE_CHECKING:
    from lsst.images import VisitImage
    from lsst.images.fields import ChebyshevField

    from ..algorithms.match.match import MatchResult

KernelFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Exposures:
    """The two images, as they came and prepared.

    Attributes
    ----------
    science, template : `lsst.images.VisitImage`
        As they came.
    prepared_science, prepared_template : `PreparedImage`
        Without sky and holes.
    fwhm_science, fwhm_template : `float`
        Widths of the PSFs in pixels.
    """

    science: VisitImage
    template: VisitImage
    prepared_science: PreparedImage
    prepared_template: PreparedImage
    fwhm_science: float
    fwhm_template: float

    @property
    def widest(self) -> float:
        """FWHM of the wider PSF in pixels."""
        return max(self.fwhm_science, self.fwhm_template)


@dataclass(frozen=True)
class Roles:
    """Which image is convolved, and which one the other is matched to."""

    convolved: PreparedImage
    target: PreparedImage
    template_convolved: bool


@dataclass(frozen=True)
class Subtraction:
    """A difference, before it becomes an exposure; fluxes on the scale of the science image.

    Attributes
    ----------
    difference, matched : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Difference and what was subtracted, both free of sky.
    variance, matched_variance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Their variances.
    psf, matched_psf : `lsst.images.psfs.PointSpreadFunction`
        Their PSFs.
    background_terms : `numpy.ndarray`
        Chebyshev coefficients of the background beyond the sky of the science image.
    kernel_model : `lsst.images.convolution_kernels.ConvolutionKernel`
        Matching kernel.
    centre_kernel : `numpy.ndarray`, ``(S, S)``
        That kernel at the centre.
    noise : `float`
        Typical variance of a pixel of blank sky, before whitening.
    template_convolved : `bool`
        That kernel belongs to the template, not to the science image.
    whitened : `bool`
        The noise of the difference is white.
    """

    difference: np.ndarray
    matched: np.ndarray
    variance: np.ndarray
    matched_variance: np.ndarray
    psf: Any
    matched_psf: Any
    background_terms: np.ndarray
    kernel_model: Any
    centre_kernel: np.ndarray
    noise: float
    template_convolved: bool
    whitened: bool


def measure_excess(exposure: VisitImage, prepared: PreparedImage) -> np.ndarray:
    """Return what the sources add to the variance plane of an exposure, ``(Ny, Nx)``."""
    return source_variance(exposure.variance.array, prepared.data.sky, prepared.data.bad)


def convolved_noise(noise: NoiseMap, kernel: KernelFunction) -> NoiseMap:
    """Return the pixel variance of blank sky after a convolution."""
    x, y = (a.ravel() for a in np.meshgrid(noise.x, noise.y))
    power = (kernel(x, y) ** 2).sum(axis=(1, 2)).reshape(noise.values.shape)
    return NoiseMap(values=noise.values * power, x=noise.x, y=noise.y)


def template_scale(roles: Roles, match: MatchResult) -> float:
    """Return science counts over template counts."""
    kernel_sum = match.solution.kernel_sum
    return float(kernel_sum if roles.template_convolved else 1.0 / kernel_sum)


def scale_template_sky(
    exposures: Exposures, roles: Roles, match: MatchResult, *, order: int
) -> ChebyshevField:
    """Return the sky of the template on the flux scale of the science image.

    Parameters
    ----------
    exposures : `Exposures`
        What was subtracted.
    roles : `Roles`
        Which of the two is convolved.
    match : `~lsst.twinkles.diffim.algorithms.match.match.MatchResult`
        Its ``solution`` tells the flux scale.
    order : `int`
        Order of the polynomial of the sky.

    Returns
    -------
    sky : `lsst.images.fields.ChebyshevField`
        On the pixels of the science image.
    """
    from lsst.images.fields import ChebyshevField

    terms = template_scale(roles, match) * exposures.prepared_template.sky
    science = exposures.science
    return ChebyshevField(science.bbox, chebyshev_coefficients(terms, order), unit=science.unit)
