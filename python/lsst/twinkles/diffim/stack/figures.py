"""Figures in the metadata whose definitions are the stack's."""

from __future__ import annotations

__all__ = ("covered_fraction", "footprint_ratios", "limiting_magnitude", "mean_psf_fwhm", "psf_fwhm")

import logging
from typing import Any

import numpy as np

from ..adapters.psfs import FWHM_PER_SIGMA
from .exposures import plane_pixels

_DEPTH_SIGMA = 5.0


def psf_fwhm(psf: Any, position: Any = None) -> float:
    """Return the FWHM in pixels of the Gaussian of a PSF's second moments (their mean along both axes).

    Parameters
    ----------
    psf : `lsst.afw.detection.Psf`
        PSF.
    position : `lsst.geom.Point2D`, optional
        Where; at the average position of the PSF if not given.

    Raises
    ------
    lsst.pex.exceptions.Exception
        The PSF has no value there.
    """
    position = psf.getAveragePosition() if position is None else position
    return float(FWHM_PER_SIGMA * psf.computeShape(position).getTraceRadius())


def mean_psf_fwhm(exposure: Any, *, grid: int, buffer: float) -> float:
    """Return the mean FWHM in pixels over a grid of positions, where the PSF has a value.

    Parameters
    ----------
    exposure : `lsst.afw.image.ExposureF`
        Exposure.
    grid : `int`
        Positions along each axis.
    buffer : `float`
        Margin, as a fraction of the image.

    Raises
    ------
    ValueError
        It has a value nowhere.
    """
    from lsst.geom import Point2D
    from lsst.pex.exceptions import InvalidParameterError, RangeError

    box = exposure.getBBox()
    margins = buffer * (box.getMaxX() - box.getMinX()), buffer * (box.getMaxY() - box.getMinY())
    widths = []
    for x in np.linspace(box.getMinX() + margins[0], box.getMaxX() - margins[0], grid):
        for y in np.linspace(box.getMinY() + margins[1], box.getMaxY() - margins[1], grid):
            try:
                widths.append(psf_fwhm(exposure.getPsf(), Point2D(x, y)))
            except (InvalidParameterError, RangeError):
                continue
    if not widths:
        raise ValueError("The PSF has a value at none of the positions on the exposure.")
    return float(np.nanmean(widths))


def limiting_magnitude(
    exposure: Any, log: logging.Logger | Any, *, fallback_fwhm: float | None = None
) -> float:
    """Return the stack's limiting magnitude: five times the square root of the PSF's area, as counts.

    Parameters
    ----------
    exposure : `lsst.afw.image.ExposureF`
        Exposure with calibration.
    log : `logging.Logger`
        Logger.
    fallback_fwhm : `float`, optional
        FWHM in pixels to use if the PSF has no value at its average position.

    Returns
    -------
    magnitude : `float`
        AB magnitude; NaN if there is no calibration or no PSF.

    Notes
    -----
    It takes the noise of a pixel to be one count;
    `~lsst.twinkles.diffim.tasks.subtraction_figures.limiting_magnitude` takes the noise that is there.
    """
    from lsst.pex.exceptions import Exception as StackException

    if exposure.photoCalib is None:
        return float("nan")
    psf = exposure.getPsf()
    try:
        shape = psf.computeShape(psf.getAveragePosition())
    except StackException:
        if fallback_fwhm is None:
            log.info("The PSF has no value at its average position; no limiting magnitude.")
            return float("nan")
        log.info("The PSF has no value at its average position; its FWHM is taken as %f.", fallback_fwhm)
        area = np.pi * (fallback_fwhm / 2) ** 2
    else:
        area = np.pi * np.sqrt(shape.getIxx() * shape.getIyy())
    return float(exposure.photoCalib.instFluxToMagnitude(1) - 2.5 * np.log10(_DEPTH_SIGMA * np.sqrt(area)))


def footprint_ratios(science: Any, difference: Any, sources: Any) -> dict[str, float]:
    """Return what is left of the sources in a difference.

    Parameters
    ----------
    science, difference : `lsst.afw.image.ExposureF`
        Exposures on the same pixels.
    sources : `lsst.afw.table.SourceCatalog`
        Sources with footprints; those flagged ``sky_source`` stand for blank sky.

    Returns
    -------
    figures : `dict` [`str`, `float`]
        ``differenceFootprintRatioMean`` and ``Stdev``: over the sources, mean ``|difference|`` in the
        footprint in excess of that of blank sky, over mean ``|science|``; ``differenceFootprintSkyRatioMean``
        and ``Stdev``: the same without excess for blank sky (NaN without sky sources).
    """
    is_sky = np.zeros(len(sources), dtype=bool)
    if "sky_source" in sources.schema:
        is_sky = np.asarray(sources["sky_source"], dtype=bool)
    means = np.array([_means(source.getFootprint(), science, difference) for source in sources]).reshape(
        -1, 2
    )
    stars, sky = means[~is_sky], means[is_sky]
    with np.errstate(divide="ignore", invalid="ignore"):
        sky_ratio = sky[:, 1] / sky[:, 0]
        level = sky[:, 1].mean() if len(sky) else float(np.nanmedian(np.abs(difference.image.array)))
        ratio = np.abs(stars[:, 1] - level) / stars[:, 0]
    figures = {}
    for name, values in (("differenceFootprintRatio", ratio), ("differenceFootprintSkyRatio", sky_ratio)):
        values = values[np.isfinite(values)]
        figures[f"{name}Mean"] = float(np.mean(values)) if len(values) else float("nan")
        figures[f"{name}Stdev"] = float(np.std(values)) if len(values) else float("nan")
    return figures


def _means(footprint: Any, science: Any, difference: Any) -> tuple[float, float]:
    """Return the mean absolute values of two images in a footprint, as far as it lies on them."""
    if footprint is None:
        return float("nan"), float("nan")
    y, x = footprint.getSpans().indices()
    array = science.image.array
    y, x = np.asarray(y) - science.getY0(), np.asarray(x) - science.getX0()
    inside = (y >= 0) & (x >= 0) & (y < array.shape[0]) & (x < array.shape[1])
    if not inside.any():
        return float("nan"), float("nan")
    y, x = y[inside], x[inside]
    return float(np.abs(array[y, x]).mean()), float(np.abs(difference.image.array[y, x]).mean())


def covered_fraction(template: Any, science: Any) -> float:
    """Return the fraction of pixels with data in both of two afw exposures."""
    missing = plane_pixels(template.mask, "NO_DATA") | plane_pixels(science.mask, "NO_DATA")
    return 1.0 - float(missing.mean())
