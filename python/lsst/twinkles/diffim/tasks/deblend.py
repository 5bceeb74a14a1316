"""Separate sources that lie under one peak of the difference."""

from __future__ import annotations

__all__ = ("DeblendConfig", "DeblendTask")

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table, vstack

from lsst.pex.config import Config, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.psfs import psf_fwhm
from ..algorithms.measure.psf_fit import fit_point_sources
from ..algorithms.measure.split import Splits, split_sources
from .plugins.base import MeasuredImage
from .weighted_pixels import weigh_exposure

if TYPE_CHECKING:
    from lsst.images import DifferenceImage


class DeblendConfig(Config):
    """Configuration of `DeblendTask`."""

    badMaskPlanes = ListField[str](
        doc="Pixels that get no weight.", default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"]
    )
    fitRadiusFwhm = RangeField[float](
        doc="Half side of the fitted squares over the FWHM of the PSF.", default=2.5, min=1.0
    )
    blendLinkFwhm = RangeField[float](
        doc="Sources closer than this, in FWHM, are fitted at once.", default=2.0, min=0.0
    )
    maxBlendSize = RangeField[int](doc="Most sources that are fitted at once.", default=12, min=1)
    minSnr = RangeField[float](
        doc="Least signal-to-noise ratio of a peak that is tried for a second source.", default=10.0, min=0.0
    )
    minChi2Gain = RangeField[float](
        doc="Least fall of chi square by the second source (three parameters).",
        default=25.0,
        min=0.0,
    )
    minSeparationFwhm = RangeField[float](
        doc="Least distance of the two in FWHM; closer ones cannot be told from a PSF that is too narrow.",
        default=0.4,
        min=0.0,
    )
    maxSeparationFwhm = RangeField[float](doc="Greatest distance of the two in FWHM.", default=1.5, min=0.0)
    minFluxRatio = RangeField[float](
        doc="Least flux of the fainter over that of the brighter.", default=0.1, min=0.0, max=1.0
    )
    psfError = RangeField[float](
        doc="Fractional error of the PSF, added in quadrature to the noise.", default=0.01, min=0.0
    )
    nIterations = RangeField[int](doc="Most steps of a fit.", default=40, min=1)


class DeblendTask(Task):
    """Split detections that are better explained by two point sources than by one."""

    ConfigClass = DeblendConfig
    _DefaultName = "deblend"
    config: DeblendConfig

    @timeMethod
    def run(self, difference: DifferenceImage, sources: Table) -> Struct:
        """Deblend.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference with white noise, its PSF and variance; not modified.
        sources : `astropy.table.Table`
            Detections, with ``x`` and ``y`` and what else `DetectionTask` gives; not modified.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``sources`` (`astropy.table.Table`): the detections, those that were split with the position of
            their brighter part, and after them the fainter parts. A column ``isSplit`` (bool) marks both;
            ``nPeaks`` counts the new ones.
        """
        pixels = weigh_exposure(difference, self.config.badMaskPlanes)
        splits = self._split(pixels, sources, difference)
        out = sources.copy()
        out["isSplit"] = np.zeros(len(out), dtype=bool)
        out["isSplit"][splits.parent] = True
        more = out[splits.parent]
        box = difference.bbox
        for part, table, rows in ((0, out, splits.parent), (1, more, slice(None))):
            table["x"][rows] = splits.x[:, part] + box.x.start
            table["y"][rows] = splits.y[:, part] + box.y.start
        if "significance" in more.colnames:
            more["significance"] = splits.flux[:, 1] / splits.flux_error[:, 1]
        out = vstack([out, more], metadata_conflicts="silent") if len(more) else out
        if {"footprint", "nPeaks"} <= set(out.colnames):
            _, inverse, counts = np.unique(out["footprint"], return_inverse=True, return_counts=True)
            out["nPeaks"] = np.maximum(out["nPeaks"], counts[inverse])
        self.metadata["nSplitDiaSources"] = len(splits)
        self.log.info("%d of %d peaks split into two sources.", len(splits), len(sources))
        return Struct(sources=out)

    def _split(self, pixels: MeasuredImage, sources: Table, difference: DifferenceImage) -> Splits:
        """Fit the peaks as single sources, and look for second ones."""
        config = self.config
        fwhm = psf_fwhm(pixels.psf)
        half = int(np.ceil(config.fitRadiusFwhm * fwhm))
        blends = {"link": config.blendLinkFwhm * fwhm, "most": config.maxBlendSize}
        fits = fit_point_sources(
            pixels.image, pixels.weight, pixels.psf,
            x=np.asarray(sources["x"], float) - difference.bbox.x.start,
            y=np.asarray(sources["y"], float) - difference.bbox.y.start,
            half=half, max_shift=fwhm, iterations=config.nIterations, rounds=2, **blends,
        )  # fmt: skip
        return split_sources(
            pixels.image, pixels.weight, pixels.psf, fits,
            half=half, fwhm=fwhm, **blends,
            min_snr=config.minSnr,
            min_gain=config.minChi2Gain,
            min_separation=config.minSeparationFwhm * fwhm,
            max_separation=config.maxSeparationFwhm * fwhm,
            min_flux_ratio=config.minFluxRatio,
            model_error=config.psfError,
            iterations=config.nIterations,
        )  # fmt: skip
