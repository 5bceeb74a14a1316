"""Make the noise of a difference image white."""

from __future__ import annotations

__all__ = ("DecorrelateConfig", "DecorrelateTask")

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.kernels import evaluate_kernel
from ..adapters.masks import bad_pixels
from ..adapters.metadata import copy_metadata
from ..adapters.psfs import psf_from_grid, sample_psf
from ..algorithms.decorrelate.whiten import Whitener, propagate_variance, source_variance, whiten
from ..algorithms.noise import NoiseMap, sky_variance_map
from ..algorithms.psf_grid import PsfGrid
from ..algorithms.threads import get_num_threads
from .errors import UnusableExposureError

if TYPE_CHECKING:
    from lsst.images import Box, DifferenceImage, VisitImage

_NOISE_CELL = 256
_TILE = 512


class DecorrelateConfig(Config):
    """Configuration of `DecorrelateTask`."""

    ignoreMaskPlanes = ListField[str](
        doc="Planes whose pixels are not used for the noise.",
        default=["NO_DATA", "BAD", "SAT", "EDGE", "INTRP"],
    )
    holeMaskPlanes = ListField[str](
        doc="Planes whose pixels are taken as 0 in the convolution and keep their value.",
        default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"],
    )
    tolerance = RangeField[float](
        doc="Share of the energy of the whitening filter that may be cut.",
        default=1e-6,
        min=0.0,
        max=0.01,
    )
    psfSize = RangeField[int](
        doc="Least side in pixels of the PSF stamps of the result; odd.", default=41, min=11
    )
    psfNodes = RangeField[int](doc="Grid points of the PSF along each axis.", default=5, min=1)


@dataclass(frozen=True)
class _Noise:
    """Noise of one exposure: blank sky, and what the sources add (``(Ny, Nx)``)."""

    sky: NoiseMap
    excess: np.ndarray


class DecorrelateTask(Task):
    """Whiten a difference image, with its PSF and variance.

    Notes
    -----
    DMTN-021 (Reiss & Lupton 2016, doi:10.5281/zenodo.192833), equation 4, evaluated with the
    noise and the kernel of each position. The PSF is convolved with the same filter.
    """

    ConfigClass = DecorrelateConfig
    _DefaultName = "decorrelate"
    config: DecorrelateConfig

    @timeMethod
    def run(
        self,
        scienceExposure: VisitImage,
        templateExposure: VisitImage,
        subtractedExposure: DifferenceImage,
        psfMatchingKernel: Any,
        preConvKernel: Any = None,
        templateMatched: bool = True,
    ) -> Struct:
        """Whiten.

        Parameters
        ----------
        scienceExposure, templateExposure : `lsst.images.VisitImage`
            Exposures that were subtracted, not convolved, on the same pixels; for their variance.
        subtractedExposure : `lsst.images.DifferenceImage`
            Difference on the flux scale of the science exposure; not modified.
        psfMatchingKernel : `lsst.images.convolution_kernels.ConvolutionKernel`
            Kernel that one of them was convolved with.
        preConvKernel : `None`
            Not built yet; for the signature of the stack's task.
        templateMatched : `bool`, optional
            The template was convolved; if not, the science exposure.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``correctedExposure`` (`lsst.images.DifferenceImage`) and ``correctionKernel``
            (`numpy.ndarray`, ``(S, S)``), the filter at the centre.

        Raises
        ------
        UnusableExposureError
            A variance plane has no usable pixel.
        """
        if preConvKernel is not None:
            raise NotImplementedError("preConvKernel is not built yet; pass None.")
        science = self._measure_noise(scienceExposure, "science")
        template = self._measure_noise(templateExposure, "template")
        make = self._make_whitener if templateMatched else self._make_reverse_whitener
        whitener = make(science, template, psfMatchingKernel, subtractedExposure.bbox)
        workers = get_num_threads()
        holes = bad_pixels(subtractedExposure.mask, self.config.holeMaskPlanes)
        image = np.where(holes, np.float32(0.0), subtractedExposure.image.array)
        corrected = whiten(image, whitener, workers=workers, side=_TILE, tolerance=self.config.tolerance)
        np.copyto(corrected, subtractedExposure.image.array, where=holes)
        target, convolved = (science, template) if templateMatched else (template, science)
        psfs = _middle_psf(scienceExposure), _middle_psf(templateExposure)
        total = np.float32(_kernel_sum(psfMatchingKernel, subtractedExposure.bbox))
        variance = propagate_variance(
            target.excess if templateMatched else target.excess / total**2,
            convolved.excess,
            filters=whitener.pair,
            sky=whitener.sky_image(image.shape),
            psfs=psfs if templateMatched else psfs[::-1],
        )
        psf = self._whiten_psf(subtractedExposure, whitener)
        result = _replace_pixels(subtractedExposure, corrected, variance, psf)
        centre = whitener.stamps(x=np.array([image.shape[1] / 2]), y=np.array([image.shape[0] / 2]), size=41)[
            0
        ]
        self.log.info("Whitened the noise; the filter's centre is %.3f.", centre[20, 20])
        return Struct(correctedExposure=result, correctionKernel=centre)

    def _make_whitener(self, science: _Noise, template: _Noise, kernel: Any, bbox: Box) -> Whitener:
        """Return the filter for a convolved template; all on the flux scale of the science exposure."""
        return Whitener(
            kernel=lambda x, y: evaluate_kernel(kernel, bbox, x=x, y=y),
            target=science.sky,
            convolved=template.sky,
            kernel_sum=_kernel_sum(kernel, bbox),
        )

    def _make_reverse_whitener(self, science: _Noise, template: _Noise, kernel: Any, bbox: Box) -> Whitener:
        """Return the filter for a convolved science exposure and a template scaled to it."""
        total = _kernel_sum(kernel, bbox)
        return Whitener(
            kernel=lambda x, y: evaluate_kernel(kernel, bbox, x=x, y=y) / total,
            target=template.sky.scaled(total**-2),
            convolved=science.sky,
            kernel_sum=1.0,
        )

    def _measure_noise(self, exposure: VisitImage, role: str) -> _Noise:
        variance = exposure.variance.array
        with np.errstate(invalid="ignore"):
            bad = ~(variance > 0) | ~np.isfinite(variance)
        bad |= bad_pixels(exposure.mask, self.config.ignoreMaskPlanes)
        try:
            sky = sky_variance_map(variance, bad, size=_NOISE_CELL)
        except ValueError as error:
            raise UnusableExposureError(f"The {role} exposure cannot be used: {error}", role=role) from error
        return _Noise(sky=sky, excess=source_variance(variance, sky, bad))

    def _whiten_psf(self, difference: DifferenceImage, whitener: Whitener) -> Any:
        box = difference.bbox
        grid = sample_psf(difference.psf, box, grid=self.config.psfNodes)
        nodes = self.config.psfNodes
        x = np.linspace(0, box.x.size - 1, min(nodes, box.x.size))
        y = np.linspace(0, box.y.size - 1, min(nodes, box.y.size))
        size = max(grid.size, self.config.psfSize)
        whitened: PsfGrid = whitener.apply_to_psf(grid, x=x, y=y, size=size)
        return psf_from_grid(whitened, box, order=min(3, nodes - 1))


def _middle_psf(exposure: VisitImage) -> np.ndarray:
    """PSF in the middle of an exposure, of unit sum."""
    return sample_psf(exposure.psf, exposure.bbox, grid=1).mean()


def _kernel_sum(kernel: Any, bbox: Box) -> float:
    """Sum of the kernel at the centre of a box."""
    x, y = np.array([bbox.x.size / 2]), np.array([bbox.y.size / 2])
    return float(evaluate_kernel(kernel, bbox, x=x, y=y).sum())


def _replace_pixels(
    difference: DifferenceImage, image: np.ndarray, variance: np.ndarray, psf: Any
) -> DifferenceImage:
    """Return a difference with other pixels and another PSF; the mask is copied, the rest is shared."""
    from lsst.images import DifferenceImage, Image

    return DifferenceImage(
        Image(
            image,
            bbox=difference.bbox,
            unit=difference.unit,
            sky_projection=difference.sky_projection,
        ),
        mask=difference.mask.copy(),
        variance=Image(variance, bbox=difference.bbox, unit=difference.variance.unit),
        obs_info=difference.obs_info,
        summary_stats=difference.summary_stats,
        photometric_scaling=difference.photometric_scaling,
        psf=psf,
        detector=difference.detector,
        aperture_corrections=difference.aperture_corrections,
        backgrounds=difference.backgrounds,
        band=difference.band,
        kernel=difference.kernel,
        templates=difference.templates,
        metadata=copy_metadata(difference),
    )
