"""Find what changed: significant peaks of a difference image, of both signs."""

from __future__ import annotations

__all__ = ("DetectionConfig", "DetectionTask")

from typing import TYPE_CHECKING

import astropy.units as u
import numpy as np
from astropy.table import Table

from lsst.pex.config import Config, Field, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.masks import bad_pixels, plane_bits
from ..adapters.psfs import sample_psf
from ..algorithms.detect.footprints import Footprints, make_footprints
from ..algorithms.detect.peaks import Peaks, find_peaks, suppress_rings
from ..algorithms.detect.score import significance_image
from ..algorithms.noise import cell_statistics

if TYPE_CHECKING:
    from lsst.images import DifferenceImage

_TILE = 400
# Less scatter over what is claimed is not that of correlated noise, but of no noise at all.
_LEAST_SCORE_NOISE = 0.2
_CELL = 64


class DetectionConfig(Config):
    """Configuration of `DetectionTask`."""

    thresholdValue = RangeField[float](
        doc="Least significance of a detection, in standard deviations.", default=5.0, min=1.0
    )
    badMaskPlanes = ListField[str](
        doc="A detection whose peak lies on such a pixel is rejected.",
        default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE", "EDGE"],
    )
    excludeMaskPlanes = ListField[str](
        doc="Pixels that get no weight in the significance image.",
        default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"],
    )
    minPsfCoverage = RangeField[float](
        doc="Least share of good pixels under the core of the PSF.", default=0.5, min=0.0, max=1.0
    )
    peakRadius = RangeField[int](
        doc="Half side in pixels of the square in which a peak has to be the highest.", default=2, min=1
    )
    sidelobeError = RangeField[float](
        doc="Peaks are dropped that the rings of brighter ones explain to within this fraction.",
        default=0.1,
        min=0.0,
        max=1.0,
    )
    scoreNoiseTolerance = RangeField[float](
        doc="The significance is divided by its own scatter in blank sky if that differs from 1 by more than "
        "this, as it does where the noise of the inputs is correlated between pixels.",
        default=0.05,
        min=0.0,
    )
    doAstrometricNoise = Field[bool](
        doc="Let the scatter of the positions of static sources, where there is some beyond the noise, count "
        "as noise of the significance image?",
        default=True,
    )
    growFootprint = RangeField[int](doc="Pixels by which footprints grow.", default=2, min=0)
    doMerge = Field[bool](
        doc="Merge positive and negative footprints that touch after growing?", default=True
    )


class DetectionTask(Task):
    """Detect sources of both signs on the PSF-matched significance image."""

    ConfigClass = DetectionConfig
    _DefaultName = "detection"
    config: DetectionConfig

    @timeMethod
    def run(
        self,
        difference: DifferenceImage,
        light: np.ndarray | None = None,
        jitter: float = 0.0,
        significance: np.ndarray | None = None,
    ) -> Struct:
        """Detect.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference with white noise, its PSF and variance; not modified.
        light : `numpy.ndarray`, ``(Ny, Nx)``, optional
            Static light that was subtracted, without its sky; needed if ``jitter`` is positive.
        jitter : `float`, optional
            Scatter of the positions of static sources between the two images, in pixels (see
            ``doAstrometricNoise``).
        significance : `numpy.ndarray`, ``(Ny, Nx)``, optional
            Significance of a point source at each pixel, if it is known already.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            - ``sources`` (`astropy.table.Table`): one row for each peak, the most significant first: ``x``,
              ``y`` (pixel frame of ``difference``), ``significance`` (signed), ``isNegative``,
              ``footprint`` (number of the region it lies in), ``nPeaks``, ``isMerged`` (the region has
              peaks of both signs), ``footprintArea``, ``bboxSize``.
            - ``positive``, ``negative`` (`numpy.ndarray`, ``(Ny, Nx)``, bool): grown footprints.
            - ``score`` (`lsst.images.Image`): significance of a point source at each pixel, 0 where there
              is too little data.
            - ``scoreNoise`` (`float`): what it was divided by (see ``scoreNoiseTolerance``).
        """
        from lsst.images import Image

        config = self.config
        psf = sample_psf(difference.psf, difference.bbox, grid=4)
        bad = bad_pixels(difference.mask, config.excludeMaskPlanes)
        if significance is None:
            score = significance_image(
                difference.image.array,
                difference.variance.array,
                bad,
                psf,
                min_coverage=config.minPsfCoverage,
                side=_TILE,
                light=light,
                jitter=jitter if config.doAstrometricNoise else 0.0,
            )
        else:
            # Peaks on bad pixels stay, to be rejected: cut out, they would leave peaks on the rim.
            score = np.where(np.isfinite(significance), significance, 0.0).astype(np.float32)
        noise = self._normalize(score, bad)
        self.metadata["errorScale"] = noise
        peaks = find_peaks(score, threshold=config.thresholdValue, radius=config.peakRadius)
        kept = suppress_rings(
            peaks, psf.mean(), threshold=config.thresholdValue, model_error=config.sidelobeError
        )
        bits = plane_bits(difference.mask, config.badMaskPlanes)
        rejected = (difference.mask.array[kept.y, kept.x] & bits).any(axis=-1)
        good = kept.take(np.flatnonzero(~rejected))
        footprints = make_footprints(
            score, threshold=config.thresholdValue, grow=config.growFootprint, merge=config.doMerge
        )
        self._record(len(peaks), len(kept), int(rejected.sum()), footprints)
        self.log.info(
            "%d positive and %d negative detections above %.1f sigma; %d on bad pixels rejected.",
            np.count_nonzero(good.significance > 0),
            np.count_nonzero(good.significance < 0),
            config.thresholdValue,
            rejected.sum(),
        )
        return Struct(
            sources=_make_table(good, footprints, score, difference),
            positive=footprints.positive,
            negative=footprints.negative,
            score=Image(score, bbox=difference.bbox),
            scoreNoise=noise,
        )

    def _normalize(self, score: np.ndarray, bad: np.ndarray) -> float:
        """Divide the significance by its scatter in blank sky, in place, if that is not 1."""
        _, sigma, number, _, _ = cell_statistics(score, bad | (score == 0.0), size=_CELL, min_fraction=0.25)
        noise = float(np.median(sigma[number > 0])) if (number > 0).any() else 1.0
        self.metadata["scoreNoise"] = noise
        if abs(noise - 1.0) <= self.config.scoreNoiseTolerance:
            return 1.0
        if noise < _LEAST_SCORE_NOISE:
            self.log.warning(
                "Blank sky scatters %.2g times as much as the variance plane lets expect: the two images "
                "share their noise. Significances and errors are left as they are.",
                noise,
            )
            return 1.0
        self.log.warning(
            "Point-source fluxes of blank sky scatter %.2f times as much as the variance plane lets "
            "expect: the noise of the inputs is correlated between pixels, or not what they claim. "
            "Significances and errors are scaled by it.",
            noise,
        )
        score /= np.float32(noise)
        return noise

    def _record(self, n_peaks: int, n_kept: int, n_rejected: int, footprints: Footprints) -> None:
        self.metadata["nPeaks"] = n_peaks
        self.metadata["nSidelobePeaks"] = n_peaks - n_kept
        self.metadata["nRejectedBadMaskPlanes"] = n_rejected
        self.metadata["nPixelsDetectedPositive"] = int(np.count_nonzero(footprints.positive))
        self.metadata["nPixelsDetectedNegative"] = int(np.count_nonzero(footprints.negative))
        self.metadata["nMergedDiaSources"] = int(np.count_nonzero(footprints.areas[1:]))


def _make_table(
    peaks: Peaks, footprints: Footprints, score: np.ndarray, difference: DifferenceImage
) -> Table:
    """Return the peaks, with positions to a fraction of a pixel, and their footprints."""
    negative = peaks.significance < 0
    number = footprints.number_at(x=peaks.x, y=peaks.y, negative=negative)
    n_regions = len(footprints.areas)
    n_peaks = np.bincount(number, minlength=n_regions)
    n_negative = np.bincount(number, weights=negative, minlength=n_regions)
    merged = (n_negative > 0) & (n_negative < n_peaks)
    dx, dy = _parabola(score, peaks)
    table = Table(
        {
            "x": peaks.x + dx + difference.bbox.x.start,
            "y": peaks.y + dy + difference.bbox.y.start,
            "significance": peaks.significance,
            "isNegative": negative,
            "footprint": number,
            "nPeaks": n_peaks[number],
            "isMerged": merged[number],
            "footprintArea": footprints.areas[number],
            "bboxSize": footprints.extents[number],
        }
    )
    table["x"].unit = table["y"].unit = u.pix
    return table


def _parabola(score: np.ndarray, peaks: Peaks) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of the vertex of parabolas through each peak and its neighbours, at most half a pixel."""
    ny, nx = score.shape
    offsets = []
    for step_y, step_x in ((0, 1), (1, 0)):
        low = score[np.maximum(peaks.y - step_y, 0), np.maximum(peaks.x - step_x, 0)].astype(float)
        high = score[np.minimum(peaks.y + step_y, ny - 1), np.minimum(peaks.x + step_x, nx - 1)].astype(float)
        curvature = low - 2.0 * score[peaks.y, peaks.x] + high
        with np.errstate(divide="ignore", invalid="ignore"):
            offset = 0.5 * (low - high) / curvature
        offsets.append(np.clip(np.where(np.isfinite(offset), offset, 0.0), -0.5, 0.5))
    return offsets[0], offsets[1]
