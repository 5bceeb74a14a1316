"""Figures that say how good a difference image is, and a verdict."""

from __future__ import annotations

__all__ = (
    "METRICS_MASK_PLANES",
    "AssessDifferenceConfig",
    "AssessDifferenceTask",
    "exposure_seed",
    "flatten_metadata",
    "mask_fractions",
)

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lsst.pex.config import Config, ConfigurableField, ListField, RangeField
from lsst.pipe.base import Struct, Task, TaskMetadata
from lsst.utils.timer import timeMethod

from ..adapters.kernels import evaluate_kernel
from ..adapters.masks import bad_pixels, known_plane_names, resolve_plane_name
from ..adapters.metadata import visit_number
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.in_threads import run_in_threads
from ..algorithms.report.counts_nb import count_bits
from ..algorithms.report.figures import (
    describe_kernels,
    neighbour_correlation,
    residual_ratios,
)
from ..algorithms.robust import robust_moments
from .errors import BadSubtractionError
from .sky_objects import SkyObjectsTask, measure_sky_fluxes

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.images import DifferenceImage, Mask, VisitImage

METRICS_MASK_PLANES = [
    *("BAD", "CLIPPED", "CR", "DETECTED", "DETECTED_NEGATIVE", "EDGE", "INEXACT_PSF", "INJECTED"),
    *("INJECTED_TEMPLATE", "INTRP", "NOT_DEBLENDED", "NO_DATA", "REJECTED", "SAT", "SAT_TEMPLATE"),
    *("SENSOR_EDGE", "STREAK", "SUSPECT", "UNMASKEDNAN"),
]
"""Planes of which fractions are given, by the names that ip_diffim gives them."""

_COUNTED = {"isNegative": "nNegativeDiaSources", "isDipole": "nDipoles", "pixelFlags": "nFlaggedDiaSources"}
_RELIABLE = 0.5
_KERNEL_GRID = 5
_CORRELATION_PIXELS = 1_000_000


class AssessDifferenceConfig(Config):
    """Configuration of `AssessDifferenceTask`: what is looked at, and the limits of the verdict."""

    skySources: Any = ConfigurableField(
        doc="Positions at which the noise of PSF fluxes is measured.", target=SkyObjectsTask
    )
    metricsMaskPlanes = ListField[str](
        doc="Planes of which fractions are given.", default=METRICS_MASK_PLANES
    )
    badMaskPlanes = ListField[str](
        doc="Pixels that count as bad.", default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE", "EDGE"]
    )
    minStarSignalToNoise = RangeField[float](
        doc="Least signal-to-noise ratio of a star that counts for the residualFootprintRatio.",
        default=50.0,
        min=0.0,
    )
    maxResidualRatio = RangeField[float](
        doc="Worst residualFootprintRatioMean before there is a warning.", default=0.05, min=0.0
    )
    badSubtractionRatioThreshold = RangeField[float](
        doc="Worst residualFootprintRatioMean: what is left of the stars.", default=0.2, min=0.0
    )
    badSubtractionVariationThreshold = RangeField[float](
        doc="Worst residualFootprintRatioStdev.", default=0.4, min=0.0
    )
    maxSkyPullDeviation = RangeField[float](
        doc="Worst deviation from 1 of the scatter of PSF fluxes of blank sky over their errors, beyond "
        "twice its own error.",
        default=0.1,
        min=0.0,
    )
    maxSkyPullMean = RangeField[float](
        doc="Worst mean of PSF fluxes of blank sky over their errors, beyond twice its own error.",
        default=0.25,
        min=0.0,
    )
    maxNoiseCorrelation = RangeField[float](
        doc="Worst correlation of neighbouring pixels of blank sky.", default=0.1, min=0.0
    )
    maxKernelSumVariation = RangeField[float](
        doc="Worst relative standard deviation of the kernel sum over the image.", default=0.05, min=0.0
    )
    maxKernelStarChi2 = RangeField[float](
        doc="Worst median of the chi square a pixel of the stars that made the kernel.", default=2.0, min=1.0
    )
    maxBadFraction = RangeField[float](doc="Worst share of bad pixels.", default=0.5, min=0.0, max=1.0)

    def setDefaults(self) -> None:
        """Take many small sky sources: a thousand tell the noise to 2 percent."""
        super().setDefaults()
        self.skySources.nSources = 1000
        self.skySources.sourceRadius = 5.0


class AssessDifferenceTask(Task):
    """Measure how good a difference image is, and warn where it is bad."""

    ConfigClass = AssessDifferenceConfig
    _DefaultName = "assess"
    config: AssessDifferenceConfig
    skySources: Any

    def __init__(self, config: Config | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.makeSubtask("skySources")

    @timeMethod
    def run(
        self,
        difference: DifferenceImage,
        science: VisitImage,
        kernelSources: Table | None = None,
        diaSources: Table | None = None,
        errorScale: float = 1.0,
        figures: Mapping[str, Any] | None = None,
    ) -> Struct:
        """Assess.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Finished difference, with its detections in the mask.
        science : `lsst.images.VisitImage`
            Exposure it was made from, with its sky.
        kernelSources : `astropy.table.Table`, optional
            Stars that made the kernel.
        diaSources : `astropy.table.Table`, optional
            The catalogue.
        errorScale : `float`, optional
            ``scoreNoise`` of the detection.
        figures : mapping, optional
            Figures of earlier stages, which go into the result.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            - ``metrics`` (`dict`): all figures by name; ``verdict`` is "good" or "doubtful", ``reasons`` a
              list of sentences.
            - ``reasons`` (`list` [`str`]).
        """
        metrics = dict(figures or {})
        metrics |= self._count_pixels(difference)
        metrics |= self._measure_noise(difference, errorScale)
        metrics |= _describe_kernel(difference)
        metrics |= _describe_stars(difference, science, kernelSources, self.config.minStarSignalToNoise)
        metrics |= _count_sources(diaSources)
        reasons = self.judge(metrics)
        metrics = {name: _plain(value) for name, value in metrics.items()}
        metrics["verdict"] = "doubtful" if reasons else "good"
        metrics["reasons"] = reasons
        for name, value in metrics.items():
            if figures is None or name not in figures:
                self.metadata[name] = value
        for reason in reasons:
            self.log.warning("This difference is doubtful: %s", reason)
        return Struct(metrics=metrics, reasons=reasons)

    def find_error(self, metrics: Mapping[str, Any]) -> BadSubtractionError | None:
        """Return the error that a difference makes by what it leaves of the stars, or `None`.

        Parameters
        ----------
        metrics : mapping
            Figures by name.
        """
        mean, spread = (metrics.get(f"residualFootprintRatio{kind}", 0.0) for kind in ("Mean", "Stdev"))
        ratio_limit = self.config.badSubtractionRatioThreshold
        spread_limit = self.config.badSubtractionVariationThreshold
        if not (mean > ratio_limit or spread > spread_limit):
            return None
        return BadSubtractionError(
            f"The difference leaves {100 * mean:.1f} percent of the light of the stars, give or take "
            f"{100 * spread:.1f}; limits are {100 * ratio_limit:g} (assess.badSubtractionRatioThreshold) and "
            f"{100 * spread_limit:g} (assess.badSubtractionVariationThreshold). Look at registration and "
            "PSFs, or set raiseOnBadSubtractionRatio=False.",
            ratio=mean,
            variation=spread,
            threshold=ratio_limit,
            variationThreshold=spread_limit,
        )

    def judge(self, metrics: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with a difference, a sentence each with figure, limit and value.

        Parameters
        ----------
        metrics : mapping
            Figures by name; those that are missing or NaN are not judged.
        """
        c = self.config
        n = max(int(metrics.get("nSkyPositions", 0)), 1)
        pull = metrics.get("skyFluxPullStdev", np.nan)
        rules: Iterable[tuple[str, float, float, str, str]] = (
            ("residualFootprintRatioMean", metrics.get("residualFootprintRatioMean", np.nan),
             c.maxResidualRatio, "maxResidualRatio",
             "much of the stars is left: look at the registration, and whether the PSFs are matched"),
            ("residualFootprintRatioStdev", metrics.get("residualFootprintRatioStdev", np.nan),
             c.badSubtractionVariationThreshold,
             "badSubtractionVariationThreshold",
             "some stars subtract far worse than others: look at the flux scale over the image"),
            ("|skyFluxPullStdev - 1|", abs(pull - 1.0) - 2.0 * np.sqrt(0.5 / n),
             c.maxSkyPullDeviation, "maxSkyPullDeviation",
             f"PSF fluxes of blank sky scatter {pull:.2f} times as much as their errors say: look at gain, "
             "read noise and correlation of the noise of the inputs"),
            ("|skyFluxPullMean|", abs(metrics.get("skyFluxPullMean", np.nan)) - 2.0 / np.sqrt(n),
             c.maxSkyPullMean, "maxSkyPullMean",
             "there is sky left in the difference: set doSubtractBackground or raise spatialBgOrder"),
            ("|noiseCorrelation|", abs(metrics.get("noiseCorrelation", np.nan)),
             c.maxNoiseCorrelation, "maxNoiseCorrelation",
             "neighbouring pixels of blank sky are correlated: set doDecorrelation, or the inputs' are"),
            ("kernelSumVariation", metrics.get("kernelSumVariation", np.nan),
             c.maxKernelSumVariation, "maxKernelSumVariation",
             "the flux scale varies over the image: look for clouds and at the flat field"),
            ("kernelStarChi2", metrics.get("kernelStarChi2", np.nan),
             c.maxKernelStarChi2, "maxKernelStarChi2",
             "the stars that made the kernel are not fitted by it"),
            ("badPixelFraction", metrics.get("badPixelFraction", np.nan), c.maxBadFraction, "maxBadFraction",
             "most of the image is masked"),
        )  # fmt: skip
        return [
            f"{name} is {value:.3g}, more than {field}={limit:g}; {text}."
            for name, value, limit, field, text in rules
            if np.isfinite(value) and value > limit
        ]

    def _count_pixels(self, difference: DifferenceImage) -> dict[str, Any]:
        """Count pixels by their planes."""
        mask = difference.mask
        bad = bad_pixels(mask, self.config.badMaskPlanes)
        n_bad = int(np.count_nonzero(bad))
        figures: dict[str, Any] = {
            "nGoodPixels": bad.size - n_bad,
            "nBadPixels": n_bad,
            "badPixelFraction": n_bad / bad.size,
        }
        for name, plane in (("Positive", "DETECTED"), ("Negative", "DETECTED_NEGATIVE")):
            detected = bad_pixels(mask, [plane])
            figures[f"nPixelsDetected{name}"] = int(np.count_nonzero(detected))
            figures[f"nBadPixelsDetected{name}"] = int(np.count_nonzero(detected & bad))
        return figures | mask_fractions(mask, self.config.metricsMaskPlanes)

    def _measure_noise(self, difference: DifferenceImage, error_scale: float) -> dict[str, Any]:
        """Measure PSF fluxes and the correlation of pixels of blank sky."""
        config = self.config
        positions = self.skySources.run(difference.mask, seed=exposure_seed(difference)).sources
        figures: dict[str, Any] = {"nSkyPositions": len(positions)}
        if len(positions) >= 10:
            fluxes = measure_sky_fluxes(
                difference, positions, error_scale=error_scale, bad_planes=list(config.badMaskPlanes)
            )
            pulls = fluxes.flux / fluxes.error
            figures["skyFluxPullMean"], figures["skyFluxPullStdev"] = robust_moments(pulls)
            figures["skyFluxErrorMedian"] = robust_moments(fluxes.error)[0]
        avoid = bad_pixels(difference.mask, self.skySources.config.avoidMask)
        correlation = neighbour_correlation(
            difference.image.array, difference.variance.array, avoid, max_pixels=_CORRELATION_PIXELS
        )
        if np.isfinite(correlation):
            figures["noiseCorrelation"] = correlation
        return figures


def flatten_metadata(*parts: TaskMetadata) -> dict[str, Any]:
    """Return the figures of some tasks in one dictionary, without what the framework notes of processes.

    Parameters
    ----------
    *parts : `lsst.pipe.base.TaskMetadata`
        Metadata; of equal names the last counts.
    """
    figures: dict[str, Any] = {}
    for part in parts:
        for name, value in part.to_dict().items():
            if not isinstance(value, Mapping | list) and not name.startswith(("run", "__", "nodeName")):
                figures[name] = value
    return figures


def mask_fractions(mask: Mask, planes: Iterable[str]) -> dict[str, float]:
    """Return ``<plane>_mask_fraction`` for planes by their old or new names; 0 for planes that are not there.

    Parameters
    ----------
    mask : `lsst.images.Mask`
        Mask.
    planes : iterable of `str`
        Names.
    """
    counts = np.zeros((len(mask.array), mask.array.shape[-1], 8), dtype=np.int64)
    run_in_threads(count_bits, len(mask.array), mask.array, counts)
    counts = counts.sum(axis=0)
    fractions = {}
    for name in planes:
        plane = resolve_plane_name(name, mask.schema) if name in known_plane_names() else name
        total = 0
        if plane in mask.schema.names:
            bits = np.unpackbits(mask.schema.bitmask(plane)[:, None], axis=1, bitorder="little").astype(bool)
            total = int(counts[bits].sum())
        fractions[f"{name.lower()}_mask_fraction"] = total / mask.bbox.area
    return fractions


def _plain(value: Any) -> Any:
    """Return a number of numpy as one of Python, which every format can hold."""
    return value.item() if isinstance(value, np.generic) else value


def exposure_seed(difference: DifferenceImage) -> int:
    """Return a number that belongs to the exposure."""
    detector = difference.obs_info.detector_num
    return abs(int(visit_number(difference) or 0)) * 1000 + abs(int(detector or 0))


def _describe_kernel(difference: DifferenceImage) -> dict[str, float]:
    """Return how sum and centroid of the kernel change over the image."""
    kernel = getattr(difference, "kernel", None)  # raises if there is none
    if kernel is None:
        return {}
    box = difference.bbox
    x, y = np.meshgrid(
        np.linspace(0, box.x.size - 1, _KERNEL_GRID), np.linspace(0, box.y.size - 1, _KERNEL_GRID)
    )
    figures = describe_kernels(evaluate_kernel(kernel, box, x=x.ravel(), y=y.ravel()))
    mean = float(figures.sums.mean())
    return {
        "kernelSumMean": mean,
        "kernelSumVariation": float(figures.sums.std() / abs(mean)) if mean else float("nan"),
        "kernelOffsetMean": float(np.nanmean(figures.length)),
        "kernelOffsetMax": float(np.nanmax(figures.length)),
    }


def _describe_stars(
    difference: DifferenceImage, science: VisitImage, stars: Table | None, min_sn: float
) -> dict[str, Any]:
    """Return what is left of the stars in the finished difference, and how well the kernel fits them."""
    if stars is None or len(stars) == 0 or "x" not in stars.colnames:
        return {}
    figures = {}
    used = np.array(stars["used"], bool) if "used" in stars.colnames else np.ones(len(stars), bool)
    if "chi2" in stars.colnames and used.any():
        figures["kernelStarChi2"] = float(np.median(np.asarray(stars["chi2"], float)[used]))
    if "signalToNoise" in stars.colnames:
        used &= np.asarray(stars["signalToNoise"], float) > min_sn
    figures["nResidualStars"] = int(used.sum())
    ratios = _residual_ratios(difference, science, stars[used]) if used.any() else np.zeros(0)
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios):
        figures["residualFootprintRatioMean"] = float(ratios.mean())
        figures["residualFootprintRatioStdev"] = float(ratios.std())
    return figures


def _residual_ratios(difference: DifferenceImage, science: VisitImage, stars: Table) -> np.ndarray:
    """Return what part of the light of each star is left."""
    box = difference.bbox
    bad = bad_pixels(difference.mask, ["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"])
    image = science.image.array
    sample = slice(None, None, max(1, image.size // 100_000) | 1)
    sky = np.nanmedian(np.where(bad.ravel()[sample], np.nan, image.ravel()[sample]))
    return residual_ratios(
        image - np.float32(sky if np.isfinite(sky) else 0.0),
        difference.image.array,
        difference.variance.array,
        bad,
        x=np.round(np.asarray(stars["x"], float)).astype(int) - box.x.start,
        y=np.round(np.asarray(stars["y"], float)).astype(int) - box.y.start,
        half=max(1, round(psf_fwhm(sample_psf(science.psf, science.bbox, grid=1)) / 2)),
    )


def _count_sources(sources: Table | None) -> dict[str, int]:
    """Count the sources of the catalogue by kind."""
    if sources is None:
        return {}
    names = sources.colnames
    real = ~np.asarray(sources["sky_source"], bool) if "sky_source" in names else np.ones(len(sources), bool)
    figures = {"nDiaSources": int(real.sum()), "n_skySources": int((~real).sum())}
    if "reliability" in names:
        reliable = np.asarray(sources["reliability"], float) > _RELIABLE
        figures["nReliableDiaSources"] = int(np.count_nonzero(reliable & real))
    for column, name in _COUNTED.items():
        if column in names:
            figures[name] = int(np.count_nonzero(np.asarray(sources[column], bool) & real))
    return figures
