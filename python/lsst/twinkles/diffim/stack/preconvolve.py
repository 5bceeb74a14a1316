"""The score image of this package in the place of the stack's."""

from __future__ import annotations

__all__ = ("AlardLuptonPreconvolveSubtractTask",)

from typing import Any

import numpy as np
from scipy.signal import fftconvolve

from lsst.pipe.base import Struct
from lsst.utils.timer import timeMethod

from ..adapters.psfs import sample_psf, square_odd
from ..algorithms.psf_grid import PsfGrid
from .exposures import box_from_afw
from .psfs import AfwPsf
from .score import convolve_exposure
from .subtract_config import AlardLuptonPreconvolveSubtractConfig
from .subtract_images import AlardLuptonSubtractTask


class AlardLuptonPreconvolveSubtractTask(AlardLuptonSubtractTask):
    """Make a score image, with the interface of ip_diffim's ``AlardLuptonPreconvolveSubtractTask``.

    Notes
    -----
    The stack convolves the science exposure with its PSF, matches the template to that and whitens. The
    likelihood of a point source in white noise is the correlation with the PSF that it has there, so that
    here the difference is made and whitened as ever, and correlated with its own PSF: the same at leading
    order (DMTN-021, section 4), and without a kernel that has to widen the template twice.
    """

    ConfigClass = AlardLuptonPreconvolveSubtractConfig
    _DefaultName = "alardLuptonPreconvolveSubtract"
    config: AlardLuptonPreconvolveSubtractConfig
    usePreconvolution = True
    convolutionControl = None  # of the stack's; convolutions here need none

    @timeMethod
    def run(self, template: Any, science: Any, sources: Any, visitSummary: Any = None) -> Struct:
        """Make the score image.

        Parameters
        ----------
        template, science, sources, visitSummary
            As for `AlardLuptonSubtractTask.run`.

        Returns
        -------
        results : `lsst.pipe.base.Struct`
            - ``scoreExposure`` (`lsst.afw.image.ExposureF`): likelihood image; its pixels over the roots of
              their variances are significances of point sources. Its PSF is the difference's.
            - ``matchedTemplate``, ``matchedScience`` (`lsst.afw.image.ExposureF`): what was subtracted from
              what, correlated with the PSF of the science exposure.
            - ``backgroundModel``, ``kernelSources``: as for `AlardLuptonSubtractTask.run`.
            - ``psfMatchingKernel`` (`lsst.afw.math.LinearCombinationKernel`): from the template to
              ``matchedScience``.
        """
        results = super().run(template, science, sources, visitSummary=visitSummary)
        self.metadata["convolvedExposure"] = "Preconvolution"
        own = _mirrored_psf(results.matchedScience)
        return Struct(
            scoreExposure=convolve_exposure(results.difference, _mirrored_psf(results.difference)),
            matchedTemplate=convolve_exposure(results.matchedTemplate, own),
            matchedScience=convolve_exposure(results.matchedScience, own),
            backgroundModel=results.backgroundModel,
            psfMatchingKernel=_widen(results.psfMatchingKernel, own.mean()),
            kernelSources=results.kernelSources,
        )

    def _convolveExposure(
        self,
        exposure: Any,
        kernel: Any,
        convolutionControl: Any = None,
        bbox: Any = None,
        psf: Any = None,
        photoCalib: Any = None,
        interpolateBadMaskPlanes: bool = False,
    ) -> Any:
        """Convolve an exposure with a kernel of afw; the stack's tests call it by this name."""
        from lsst.afw.image import ImageD

        image = ImageD(kernel.getDimensions())
        kernel.computeImage(image, False)
        result = convolve_exposure(exposure, PsfGrid.constant(square_odd(np.array(image.array))))
        if psf is not None:
            result.setPsf(psf)
        if photoCalib is not None:
            result.setPhotoCalib(photoCalib)
        return result if bbox is None else result[bbox]


def _mirrored_psf(exposure: Any) -> PsfGrid:
    """Return the PSF of an exposure, turned by 180 degrees: a convolution with it is a correlation."""
    box = box_from_afw(exposure.getBBox())
    grid = sample_psf(AfwPsf(exposure.getPsf(), box), box)
    return PsfGrid(stamps=np.ascontiguousarray(grid.stamps[..., ::-1, ::-1]), x=grid.x, y=grid.y)


def _widen(kernel: Any, stamp: np.ndarray) -> Any:
    """Return a linear combination of kernels of afw of which each is convolved with a stamp."""
    from lsst.afw.image import ImageD
    from lsst.afw.math import FixedKernel, LinearCombinationKernel

    wider = []
    for part in kernel.getKernelList():
        image = ImageD(part.getDimensions())
        part.computeImage(image, False)
        wider.append(FixedKernel(_double_image(fftconvolve(image.array, stamp))))
    return LinearCombinationKernel(wider, kernel.getSpatialFunctionList())


def _double_image(array: np.ndarray) -> Any:
    from lsst.afw.image import ImageD
    from lsst.geom import Extent2I

    image = ImageD(Extent2I(array.shape[1], array.shape[0]))
    image.array[...] = array
    return image
