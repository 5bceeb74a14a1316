"""Measure the detections on a difference image."""

from __future__ import annotations

__all__ = ("MeasurementConfig", "MeasurementTask")

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table

from lsst.pex.config import Field, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..algorithms.measure.psf_fit import PsfFits, fit_point_sources, subtract_sources
from ..algorithms.measure.spline_psf import SplinePsf
from .dia_source_table import flux_calibration, make_dia_source_table, sky_jacobian
from .plugins import MeasurementInputs, MeasurementPlugin, measurementPlugins
from .plugins.base import MeasuredImage
from .weighted_pixels import WeightedPixelsConfig, fitted_square, weigh_images

if TYPE_CHECKING:
    from lsst.images import Box, DifferenceImage, VisitImage


class MeasurementConfig(WeightedPixelsConfig):
    """Configuration of `MeasurementTask`."""

    maxCentroidShiftFwhm = RangeField[float](
        doc="Farthest a centroid may lie from its peak, in FWHM; beyond it the peak's position stays.",
        default=1.0,
        min=0.1,
    )
    blendLinkFwhm = RangeField[float](
        doc="Sources closer than this, in FWHM, are a blend and are fitted at once.", default=2.0, min=0.0
    )
    maxBlendSize = RangeField[int](doc="Most sources that are fitted at once.", default=12, min=1)
    doCorrectBias = Field[bool](
        doc="Take away from fluxes what the free position adds, and count it in errors of positions?",
        default=True,
    )
    nIterations = RangeField[int](doc="Most steps of a fit in each round.", default=25, min=1)
    nRounds = RangeField[int](
        doc="How often sources with neighbours outside their blend are fitted, these subtracted.",
        default=3,
        min=1,
    )
    plugins: Any = measurementPlugins.makeField(
        "What is measured beside position and PSF flux.",
        default=["pixelFlags", "forcedFluxes", "apertureFlux", "shape", "dipole", "trail", "glint"],
        multi=True,
    )
    doForcedMeasurement = Field[bool](
        doc="Measure PSF fluxes on the science image and the matched template (plug-in forcedFluxes)? "
        "If not, that plug-in does not run.",
        default=True,
    )
    doDipoleFitting = Field[bool](
        doc="Fit dipoles (plug-in dipole)? If not, that plug-in does not run.", default=True
    )
    doApCorr = Field[bool](
        doc="Apply aperture corrections? If not, doApCorr of the plug-in apertureFlux does not count.",
        default=True,
    )


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
        plugins = self._make_plugins()
        direct = any(plugin.uses_direct_images for plugin in plugins)
        inputs = self._make_inputs(
            difference, (science, matchedTemplate) if direct else None, sources, errorScale
        )
        for plugin in plugins:
            inputs = replace(inputs, columns={**inputs.columns, **plugin.measure(inputs)})
        table = make_dia_source_table(inputs, id_base=idBase)
        n_failed = int(inputs.fits.failed.sum())
        self.metadata["nCentroidFailures"] = n_failed
        self.log.info("Measured %d sources, %d without a centroid.", len(table), n_failed)
        if len(table) and not np.isfinite(table["midpointMjdTai"][0]):
            self.log.info("The exposure has no date: midpointMjdTai of its sources is NaN.")
        return Struct(diaSources=table)

    def _make_inputs(
        self,
        difference: DifferenceImage,
        direct: tuple[VisitImage, VisitImage] | None,
        sources: Table,
        error_scale: float,
    ) -> MeasurementInputs:
        """Fit positions and fluxes, and put together what plug-ins work on."""
        config = self.config
        pixels, science, template = weigh_images(config, difference, direct)
        fwhm, half = fitted_square(config, pixels)
        fits = self._fit(pixels, sources, difference.bbox, fwhm, half).scaled(error_scale)
        if config.doCorrectBias:
            fits = fits.corrected()
        scale, unit = flux_calibration(difference, fits)
        return MeasurementInputs(
            difference=pixels,
            residual=subtract_sources(pixels.image, SplinePsf.from_grid(pixels.psf), fits),
            science=science,
            template=template,
            exposure=difference,
            detections=sources,
            fits=fits,
            fwhm=fwhm,
            half=half,
            flux_scale=scale,
            flux_unit=unit,
            sky_jacobian=sky_jacobian(difference, fits),
            error_scale=error_scale,
            columns={},
        )

    def _make_plugins(self) -> list[MeasurementPlugin]:
        """Return the plug-ins that are switched on, in the order in which they run."""
        config = self.config.copy()
        if not config.doApCorr:
            config.plugins["apertureFlux"].doApCorr = False
        switches = {"forcedFluxes": config.doForcedMeasurement, "dipole": config.doDipoleFitting}
        plugins = [
            plugin
            for name, plugin in zip(config.plugins.names, config.plugins.apply(), strict=True)
            if switches.get(name, True)
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
            link=self.config.blendLinkFwhm * fwhm,
            most=self.config.maxBlendSize,
            iterations=self.config.nIterations,
            rounds=self.config.nRounds,
        )
