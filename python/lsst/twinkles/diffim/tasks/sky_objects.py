"""Sky sources: positions at which there is nothing, measured to tell how true errors are."""

from __future__ import annotations

__all__ = ("SkyObjectsConfig", "SkyObjectsTask", "measure_sky_fluxes")

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from lsst.pex.config import Config, Field, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels, plane_bits
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.fourier import shift_stamps
from ..algorithms.match.prefilter import cut_stamps
from ..algorithms.measure.psf_fit import ForcedFluxes
from ..algorithms.measure.sky_positions import draw_sky_positions, fit_amplitudes

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
    psf = sample_psf(difference.psf, difference.bbox, grid=4)  # type: ignore[attr-defined]
    half = int(np.ceil(_HALF_OVER_FWHM * psf_fwhm(psf)))
    box = difference.bbox
    x, y = np.asarray(positions["x"], float) - box.x.start, np.asarray(positions["y"], float) - box.y.start
    ix, iy = np.round(x).astype(int), np.round(y).astype(int)
    # Stamps of the planes: a weight for every pixel of the image would take longer than all the fluxes.
    image, variance = (cut_stamps(p.array, ix, iy, half) for p in (difference.image, difference.variance))
    good = np.isfinite(image) & np.isfinite(variance) & (variance > 0)
    for index, bits in enumerate(plane_bits(difference.mask, bad_planes)):
        if bits:
            good &= (cut_stamps(difference.mask.array[..., index], ix, iy, half) & bits) == 0
    stamps = psf.padded(2 * half + 1).evaluate(x=x, y=y)
    model = shift_stamps(stamps, dx=x - ix, dy=y - iy) if len(x) else stamps
    fluxes = fit_amplitudes(image, np.where(good, 1.0 / np.where(good, variance, 1.0), 0.0), model)
    return ForcedFluxes(fluxes.flux, fluxes.error * error_scale, fluxes.n_pixels)
