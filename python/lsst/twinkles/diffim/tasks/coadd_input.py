"""What a visit needs before it goes into a coadd."""

from __future__ import annotations

__all__ = ("LoadCoaddInputConfig", "LoadCoaddInputTask", "LoadedInput")

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lsst.pex.config import Config, ConfigurableField, ListField, RangeField
from lsst.pipe.base import NoWorkFound, Struct, Task

from ..adapters.masks import bad_pixels
from ..adapters.psfs import InvalidPsfError, psf_fwhm, sample_psf
from ..algorithms.coadd.inputs import CoaddInput
from ..algorithms.decorrelate.whiten import source_variance
from ..algorithms.noise import NoiseMap, sky_variance_map
from ..algorithms.subtract.prepare import PreparedImage, prepare_image
from . import exposure_checks as checks
from .errors import UnusableExposureError
from .get_template import GetCalexpAsTemplateTask
from .subtraction_figures import nanojansky_scale

if TYPE_CHECKING:
    from lsst.images import VisitImage

    from .coadd_exposure import TargetGrid

_NOISE_CELL = 256


@dataclass(frozen=True)
class LoadedInput:
    """A visit on the grid of the coadd, in nJy.

    Attributes
    ----------
    visit : `int`
        Visit number.
    data : `CoaddInput`
        Pixels, noise and PSF.
    excess : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Variance that the sources add to that of blank sky.
    saturated : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Saturated pixels.
    fwhm : `float`
        FWHM of the PSF in pixels.
    exposure_time : `float`
        Seconds, NaN if unknown.
    warped : `bool`
        It was resampled.
    """

    visit: int
    data: CoaddInput
    excess: np.ndarray
    saturated: np.ndarray
    fwhm: float
    exposure_time: float
    warped: bool


class LoadCoaddInputConfig(Config):
    """Configuration of `LoadCoaddInputTask`."""

    badMaskPlanes = ListField[str](
        doc="Planes whose pixels do not go into the coadd.",
        default=["NO_DATA", "BAD", "SAT", "CR", "INTRP", "UNMASKEDNAN"],
    )
    backgroundCell = RangeField[int](
        doc="Side in pixels of the cells whose clipped medians make the sky.", default=64, min=8
    )
    spatialBgOrder = RangeField[int](doc="Degree of the polynomial of the sky.", default=2, min=0, max=6)
    minCoverage = RangeField[float](
        doc="A visit that has data on less than this fraction of the coadd is left out.",
        default=0.1,
        min=0.0,
        max=1.0,
    )
    getTemplate: Any = ConfigurableField(
        doc="Placement on the grid of the coadd.", target=GetCalexpAsTemplateTask
    )


class LoadCoaddInputTask(Task):
    """Bring a visit onto the grid and the flux scale of a coadd."""

    ConfigClass = LoadCoaddInputConfig
    _DefaultName = "loadInput"
    config: LoadCoaddInputConfig
    getTemplate: Any

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.makeSubtask("getTemplate")

    def run(self, exposure: VisitImage, grid: TargetGrid, *, visit: int) -> Struct:
        """Place, subtract the sky, fill holes, measure the noise.

        Parameters
        ----------
        exposure : `lsst.images.VisitImage`
            Calibrated exposure; not modified.
        grid : `~lsst.twinkles.diffim.tasks.coadd_exposure.TargetGrid`
            Pixels of the coadd.
        visit : `int`
            Visit number.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``input`` (`LoadedInput`).

        Raises
        ------
        UnusableExposureError
            If the exposure has no PSF, no calibration, no usable pixels or too few on the grid.
        """
        checks.require_psf(exposure, "coadd input")
        scale = nanojansky_scale(exposure)
        if scale is None or not scale > 0:
            raise UnusableExposureError(
                f"Visit {visit} has no photometric scaling, which brings it to the flux scale of the others; "
                "calibrate it (nJy per unit)."
            )
        clean, _ = checks.mask_flaws(exposure)
        checks.require_good_pixels(clean, "coadd input")
        placed = self._place(clean, grid, visit)
        prepared, bad = self._prepare(placed, visit)
        warped = bool(self.getTemplate.metadata["templateWarped"])
        factor = scale**2 * (_lost_variance(clean, prepared.data.sky) if warped else 1.0)
        data = CoaddInput(
            image=prepared.data.image * np.float32(scale),
            bad=bad,
            sky=prepared.data.sky.scaled(factor),
            psf=prepared.data.psf,
        )
        excess = source_variance(placed.variance.array, prepared.data.sky, prepared.data.bad)
        time = exposure.obs_info.exposure_time
        loaded = LoadedInput(
            visit=visit,
            data=data,
            excess=excess * np.float32(factor),
            saturated=bad_pixels(placed.mask, ["SAT"]),
            fwhm=psf_fwhm(prepared.data.psf),
            exposure_time=float("nan") if time is None else float(time.to_value("s")),
            warped=warped,
        )
        return Struct(input=loaded)

    def _place(self, exposure: VisitImage, grid: TargetGrid, visit: int) -> VisitImage:
        try:
            placed = self.getTemplate.run(grid, [exposure]).template
        except NoWorkFound as error:
            raise UnusableExposureError(f"Visit {visit} does not overlap the coadd.") from error
        fraction = checks.covered_fraction(placed)
        if fraction < self.config.minCoverage:
            raise UnusableExposureError(
                f"Visit {visit} covers {100 * fraction:.0f} percent of the coadd, less than "
                f"minCoverage={self.config.minCoverage:g}."
            )
        return placed

    def _prepare(self, placed: VisitImage, visit: int) -> tuple[PreparedImage, np.ndarray]:
        image, variance = placed.image.array, placed.variance.array
        bad = bad_pixels(placed.mask, self.config.badMaskPlanes)
        with np.errstate(invalid="ignore"):
            bad |= ~np.isfinite(image) | ~(variance > 0) | ~np.isfinite(variance)
        try:
            prepared = prepare_image(
                image,
                variance,
                bad=bad,
                holes=bad,
                saturated=np.zeros_like(bad),  # holes like the others: other visits fill them
                psf=sample_psf(placed.psf, placed.bbox),
                sky_cell=self.config.backgroundCell,
                sky_order=self.config.spatialBgOrder,
                noise_cell=_NOISE_CELL,
            )
        except (InvalidPsfError, ValueError) as error:
            raise UnusableExposureError(f"Visit {visit} cannot be coadded: {error}") from error
        return prepared, bad


def _lost_variance(exposure: VisitImage, warped: NoiseMap) -> float:
    """Return by how much resampling has lowered the variance of single pixels.

    Neighbours became correlated for that: on the scale of a PSF the noise is what it was.
    """
    variance = exposure.variance.array
    with np.errstate(invalid="ignore"):
        bad = bad_pixels(exposure.mask, ["NO_DATA", "BAD", "SAT"]) | ~(variance > 0) | ~np.isfinite(variance)
    return sky_variance_map(variance, bad, size=_NOISE_CELL).median / warped.median
