"""Find cosmic rays and hot pixels by their sharpness, and repair them."""

from __future__ import annotations

__all__ = ("FindCosmicRaysConfig", "FindCosmicRaysTask")

from typing import TYPE_CHECKING

import numpy as np

from lsst.pex.config import Config, Field, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_sigma, sample_psf
from ..algorithms.read.cosmic_rays import count_groups, find_cosmic_rays, interpolate_pixels, pair_ratios

if TYPE_CHECKING:
    from lsst.images import VisitImage

_REPAIR_WIDTH = 0.6
"""Width of the weights of a repair over that of the PSF."""


class FindCosmicRaysConfig(Config):
    """Configuration of `FindCosmicRaysTask`; names are those of meas_algorithms."""

    minSigma = RangeField[float](
        doc="Least height of a cosmic ray above the pixels around, in standard deviations.",
        default=6.0,
        min=1.0,
    )
    min_DN = RangeField[float](doc="The same in counts.", default=0.0, min=0.0)
    cond3_fac = RangeField[float](
        doc="Standard deviations by which neighbours have to be fainter than those of a point source.",
        default=2.5,
        min=0.0,
    )
    cond3_fac2 = RangeField[float](
        doc="Neighbours have to be fainter than this fraction of what the PSF gives them: allowance for a "
        "PSF model that is too wide.",
        default=0.6,
        min=0.0,
        max=1.0,
    )
    niteration = RangeField[int](
        doc="How often pixels beside a cosmic ray are looked at, with half of minSigma.", default=3, min=0
    )
    nCrPixelMax = RangeField[int](
        doc="More pixels are not believed (the PSF model must be wrong): none is marked then.",
        default=10_000,
        min=0,
    )
    keepCRs = Field[bool](doc="Mark only? If not, pixels are interpolated, too.", default=False)
    badMaskPlanes = ListField[str](
        doc="Pixels that are not judged.", default=["BAD", "SAT", "NO_DATA", "CR", "INTRP"]
    )


class FindCosmicRaysTask(Task):
    """Mark what is sharper than the PSF, ``COSMIC_RAY``: cosmic rays and hot pixels."""

    ConfigClass = FindCosmicRaysConfig
    _DefaultName = "cosmicray"
    config: FindCosmicRaysConfig

    def run(self, exposure: VisitImage, role: str = "exposure") -> Struct:
        """Find cosmic rays.

        Parameters
        ----------
        exposure : `lsst.images.VisitImage`
            Exposure with PSF, mask and variance; not modified. Bad pixels have to be masked.
        role : `str`, optional
            What to call it in the log.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            - ``exposure``: with the plane ``COSMIC_RAY`` and, if they are repaired, ``INTERPOLATED``; the
              exposure itself if there is nothing to mark.
            - ``mask`` (`numpy.ndarray`, ``(Ny, Nx)``, bool): the pixels.
            - ``nPixels``, ``count`` (`int`): how many pixels, and how many groups of them that touch.
        """
        config = self.config
        psf = sample_psf(exposure.psf, exposure.bbox, grid=3)
        bad = bad_pixels(exposure.mask, config.badMaskPlanes)
        with np.errstate(invalid="ignore"):
            bad |= ~np.isfinite(exposure.image.array) | ~(exposure.variance.array > 0)
        found = find_cosmic_rays(
            exposure.image.array,
            exposure.variance.array,
            bad,
            config.cond3_fac2 * pair_ratios(psf),
            min_sigma=config.minSigma,
            min_counts=config.min_DN,
            margin=config.cond3_fac,
            iterations=config.niteration,
        )
        n_pixels = int(np.count_nonzero(found))
        if n_pixels > config.nCrPixelMax:
            self.log.warning(
                "%d pixels of the %s are sharper than its PSF, more than nCrPixelMax=%d: its PSF model must "
                "be too wide, or the image not what it says. None of them is marked.",
                n_pixels,
                role,
                config.nCrPixelMax,
            )
            n_pixels, found = 0, np.zeros_like(found)
        if n_pixels == 0:
            return Struct(exposure=exposure, mask=found, nPixels=0, count=0)
        self.log.info(
            "%d pixels of the %s are sharper than its PSF (cosmic rays, hot pixels); %s.",
            n_pixels,
            role,
            "marked" if config.keepCRs else "repaired",
        )
        marked = self._mark(exposure, found, bad, psf_sigma(psf))
        return Struct(exposure=marked, mask=found, nPixels=n_pixels, count=count_groups(found))

    def _mark(self, exposure: VisitImage, found: np.ndarray, bad: np.ndarray, sigma: float) -> VisitImage:
        """Return a copy with the pixels marked, and repaired if that is wanted."""
        marked = exposure.copy()
        schema = marked.mask.schema
        planes = ["COSMIC_RAY"] if self.config.keepCRs else ["COSMIC_RAY", "INTERPOLATED"]
        # The bits of a few pixels: setting whole planes takes as long as the search.
        marked.mask.array[np.nonzero(found)] |= schema.bitmask(*(p for p in planes if p in schema.names))
        if not self.config.keepCRs:
            width = max(_REPAIR_WIDTH * sigma, 0.5)
            interpolate_pixels(marked.image.array, found, bad, sigma=width)
            interpolate_pixels(marked.variance.array, found, bad, sigma=width)
        return marked
