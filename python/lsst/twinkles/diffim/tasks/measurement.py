"""Measure the detections on a difference image."""

from __future__ import annotations

__all__ = ("MeasurementConfig", "MeasurementTask")

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from lsst.pex.config import Config, Field, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.kernels import evaluate_kernel
from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.fourier import half_plane_weights, transform_stamps
from ..algorithms.measure.psf_fit import PsfFits, fit_point_sources
from ..algorithms.noise import fit_sky
from ..algorithms.psf_grid import PsfGrid
from ..algorithms.spatial import chebyshev_image
from .dia_source_table import flux_calibration, make_dia_source_table, sky_jacobian
from .plugins import MeasurementInputs, MeasurementPlugin, measurementPlugins
from .plugins.base import MeasuredImage

if TYPE_CHECKING:
    from lsst.images import Box, DifferenceImage, VisitImage


class MeasurementConfig(Config):
    """Configuration of `MeasurementTask`."""

    badMaskPlanes = ListField[str](
        doc="Pixels that get no weight.", default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"]
    )
    fitRadiusFwhm = RangeField[float](
        doc="Half side of the fitted squares over the FWHM of the PSF.", default=2.5, min=1.0
    )
    maxCentroidShiftFwhm = RangeField[float](
        doc="Farthest a centroid may lie from its peak, in FWHM; beyond it the peak's position stays.",
        default=1.0,
        min=0.1,
    )
    nIterations = RangeField[int](doc="Gauss-Newton steps of a centroid in each round.", default=4, min=1)
    nRounds = RangeField[int](
        doc="How often sources with neighbours are fitted, each time with the others subtracted.",
        default=8,
        min=1,
    )
    plugins: Any = measurementPlugins.makeField(
        "What is measured beside position and PSF flux.",
        default=["pixelFlags", "forcedFluxes"],
        multi=True,
    )
    doForcedMeasurement = Field[bool](
        doc="Measure PSF fluxes on the science image and the matched template (plug-in forcedFluxes)? "
        "If not, that plug-in does not run.",
        default=True,
    )
    skyCell = RangeField[int](
        doc="Side in pixels of the cells whose medians give the sky of these two; smaller on small images.",
        default=128,
        min=16,
    )
    skyOrder = RangeField[int](doc="Order of the polynomial through them.", default=2, min=0)


class MeasurementTask(Task):
    """Centroids, PSF fluxes and flags of DIA sources."""

    ConfigClass = MeasurementConfig
    _DefaultName = "measurement"
    config: MeasurementConfig

    @timeMethod
    def run(
        self,
        difference: DifferenceImage,
        science: VisitImage,
        matchedTemplate: VisitImage,
        sources: Table,
        idBase: int = 1,
        errorScale: float = 1.0,
    ) -> Struct:
        """Measure.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference with white noise, its PSF and variance.
        science, matchedTemplate : `lsst.images.VisitImage`
            What was subtracted from what, on the same pixels and flux scale.
        sources : `astropy.table.Table`
            Detections (see `DetectionTask`).
        idBase : `int`, optional
            First ``diaSourceId``.
        errorScale : `float`, optional
            Factor on the errors of positions and fluxes on the difference, ``scoreNoise`` of the detection.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``diaSources`` (`astropy.table.Table`): columns of the Science Data Model as far as
            they are measured; see `~lsst.twinkles.diffim.tasks.dia_source_table`.
        """
        pixels = self._weigh(difference)
        fwhm = psf_fwhm(pixels.psf)
        half = int(np.ceil(self.config.fitRadiusFwhm * fwhm))
        fits = self._fit(pixels, sources, difference.bbox, fwhm, half).scaled(errorScale)
        plugins = self._make_plugins()
        science_pixels, template_pixels = (
            self._weigh_direct_images(difference, science, matchedTemplate)
            if any(plugin.uses_direct_images for plugin in plugins)
            else (None, None)
        )
        scale, unit = flux_calibration(difference, fits)
        inputs = MeasurementInputs(
            difference=pixels, science=science_pixels, template=template_pixels,
            exposure=difference, detections=sources, fits=fits, fwhm=fwhm, half=half,
            flux_scale=scale, flux_unit=unit, sky_jacobian=sky_jacobian(difference, fits),
            error_scale=errorScale, columns={},
        )  # fmt: skip
        for plugin in plugins:
            inputs = replace(inputs, columns={**inputs.columns, **plugin.measure(inputs)})
        table = make_dia_source_table(inputs, id_base=idBase)
        self.metadata["nCentroidFailures"] = int(fits.failed.sum())
        self.log.info("Measured %d sources, %d without a centroid.", len(table), fits.failed.sum())
        return Struct(diaSources=table)

    def _make_plugins(self) -> list[MeasurementPlugin]:
        """Return the plug-ins that are switched on, in the order in which they run."""
        plugins = [
            plugin
            for name, plugin in zip(self.config.plugins.names, self.config.plugins.apply(), strict=True)
            if name != "forcedFluxes" or self.config.doForcedMeasurement
        ]
        return sorted(plugins, key=lambda plugin: plugin.order)

    def _fit(self, pixels: MeasuredImage, sources: Table, box: Box, fwhm: float, half: int) -> PsfFits:
        """Fit positions and PSF fluxes on the difference."""
        return fit_point_sources(
            pixels.image,
            pixels.weight,
            pixels.psf,
            x=np.asarray(sources["x"], float) - box.x.start,
            y=np.asarray(sources["y"], float) - box.y.start,
            half=half,
            max_shift=self.config.maxCentroidShiftFwhm * fwhm,
            iterations=self.config.nIterations,
            rounds=self.config.nRounds,
        )

    def _weigh(self, exposure: VisitImage) -> MeasuredImage:
        """Return pixels with inverse variances, 0 where they are bad."""
        image, variance = exposure.image.array, exposure.variance.array
        bad = bad_pixels(exposure.mask, self.config.badMaskPlanes)
        with np.errstate(invalid="ignore", divide="ignore"):
            bad |= ~(variance > 0) | ~np.isfinite(variance) | ~np.isfinite(image)
            weight = np.where(bad, np.float32(0.0), np.float32(1.0) / variance)
        return MeasuredImage(
            np.where(bad, np.float32(0.0), image), weight, sample_psf(exposure.psf, exposure.bbox, grid=4)
        )

    def _weigh_direct_images(
        self, difference: DifferenceImage, science: VisitImage, matched: VisitImage
    ) -> tuple[MeasuredImage, MeasuredImage]:
        """Return science image and matched template without their skies."""
        direct = []
        for exposure in (science, matched):
            pixels = self._weigh(exposure)
            bad = pixels.weight == 0.0
            # Five cells at least along each axis: fewer would not hold a polynomial of order 2.
            size = min(self.config.skyCell, max(16, min(bad.shape) // 5))
            sky = fit_sky(pixels.image, bad, size=size, order=self.config.skyOrder)
            flat = pixels.image - chebyshev_image(sky, shape=bad.shape, order=self.config.skyOrder)
            direct.append(replace(pixels, image=flat))
        kernel = getattr(difference, "kernel", None)  # raises if there is none
        if kernel is not None and matched.metadata.get("psfMatched", True):
            factor = _correlation_factor(kernel, difference, sample_psf(matched.psf, matched.bbox, grid=1))
            direct[1] = replace(direct[1], noise_factor=factor)
        return direct[0], direct[1]


def _correlation_factor(kernel: Any, difference: DifferenceImage, psf: PsfGrid) -> float:
    """Return by how much the correlation of a convolved image's noise raises the error of a PSF flux.

    With the power spectra ``p`` of the PSF and ``k`` of the kernel the variance of ``sum(P I)`` is the pixel
    variance times ``mean(p k) / mean(k)`` instead of ``mean(p)``.
    """
    box = difference.bbox
    image = evaluate_kernel(kernel, box, x=np.array([box.x.size / 2]), y=np.array([box.y.size / 2]))
    side = 2 * max(image.shape[-1], psf.size)
    p = np.abs(transform_stamps(psf.mean()[None], side)) ** 2
    k = np.abs(transform_stamps(image, side)) ** 2
    weight = half_plane_weights(side)

    def total(power: np.ndarray) -> float:
        return float((power * weight).sum())

    return float(np.sqrt(total(p * k) * total(np.ones_like(p)) / (total(p) * total(k))))
