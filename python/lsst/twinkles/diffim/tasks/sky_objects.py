"""Sky sources: positions at which there is nothing, measured to tell how true errors are."""

from __future__ import annotations

__all__ = ("SkyObjectsConfig", "SkyObjectsTask", "measure_sky_fluxes")

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from lsst.pex.config import Config, Field, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.measure.psf_fit import ForcedFluxes, measure_forced_fluxes
from ..algorithms.measure.sky_positions import draw_sky_positions

if TYPE_CHECKING:
    from lsst.images import Mask, MaskedImage

_HALF_OVER_FWHM = 2.5


class SkyObjectsConfig(Config):
    """Configuration of `SkyObjectsTask`; fields are those of the task of this name in meas_algorithms."""

    avoidMask = ListField[str](
        doc="Pixels with one of these planes are avoided.",
        default=[
            *("DETECTED", "DETECTED_NEGATIVE", "BAD", "NO_DATA"),
            *("SAT", "SAT_TEMPLATE", "EDGE", "CR", "STREAK"),
        ],
    )
    growMask = RangeField[int](doc="Pixels by which these areas grow.", default=0, min=0)
    sourceRadius = RangeField[float](
        doc="Radius in pixels of the disc that has to be clear.", default=8.0, min=0.0
    )
    nSources = RangeField[int](doc="Sky sources that are wanted.", default=100, min=0)
    nTrialSources = Field[int](
        doc="Positions that are tried; by default nTrialSourcesMultiplier times nSources.",
        default=None,
        optional=True,
    )
    nTrialSourcesMultiplier = RangeField[int](
        doc="Positions that are tried for each that is wanted.", default=5, min=1
    )


class SkyObjectsTask(Task):
    """Find positions at which there is nothing but sky."""

    ConfigClass = SkyObjectsConfig
    _DefaultName = "skySources"
    config: SkyObjectsConfig

    def run(self, mask: Mask, seed: int) -> Struct:
        """Draw positions.

        Parameters
        ----------
        mask : `lsst.images.Mask`
            Mask in which detections are set.
        seed : `int`
            Same seed and mask, same positions.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``sources`` (`astropy.table.Table`): ``x``, ``y`` in the pixel frame of the mask.
        """
        config = self.config
        trials = config.nTrialSources
        x, y = draw_sky_positions(
            bad_pixels(mask, config.avoidMask),
            n_sources=config.nSources,
            n_trials=config.nTrialSourcesMultiplier * config.nSources if trials is None else trials,
            radius=config.sourceRadius,
            grow=config.growMask,
            seed=seed,
        )
        self.metadata["sky_footprint_count"] = len(x)
        self.log.debug("%d of %d sky sources found room.", len(x), config.nSources)
        box = mask.bbox
        table = Table({"x": (x + box.x.start).astype(float), "y": (y + box.y.start).astype(float)})
        table["x"].unit = table["y"].unit = "pix"
        return Struct(sources=table)


def measure_sky_fluxes(
    difference: MaskedImage, positions: Table, *, error_scale: float, bad_planes: list[str]
) -> ForcedFluxes:
    """Measure PSF fluxes of a difference at given positions.

    Parameters
    ----------
    difference : `lsst.images.DifferenceImage`
        Difference with white noise, its PSF and variance.
    positions : `astropy.table.Table`
        ``x``, ``y`` in its pixel frame.
    error_scale : `float`
        Factor on the errors, ``scoreNoise`` of the detection.
    bad_planes : `list` [`str`]
        Pixels that get no weight.

    Returns
    -------
    fluxes : `~lsst.twinkles.diffim.algorithms.measure.psf_fit.ForcedFluxes`
        In the unit of the pixels.
    """
    image, variance = difference.image.array, difference.variance.array
    bad = bad_pixels(difference.mask, bad_planes)
    with np.errstate(invalid="ignore", divide="ignore"):
        bad |= ~(variance > 0) | ~np.isfinite(variance) | ~np.isfinite(image)
        weight = np.where(bad, np.float32(0.0), np.float32(1.0) / variance)
    psf = sample_psf(difference.psf, difference.bbox, grid=4)  # type: ignore[attr-defined]
    box = difference.bbox
    fluxes = measure_forced_fluxes(
        image,
        weight,
        psf,
        x=np.asarray(positions["x"], float) - box.x.start,
        y=np.asarray(positions["y"], float) - box.y.start,
        half=int(np.ceil(_HALF_OVER_FWHM * psf_fwhm(psf))),
    )
    return ForcedFluxes(fluxes.flux, fluxes.error * error_scale, fluxes.n_pixels)
