"""Figures of a difference image at positions all over it."""

from __future__ import annotations

__all__ = ("SpatiallySampledMetricsConfig", "SpatiallySampledMetricsTask")

from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.table import Column, Table

from lsst.pex.config import Config, ConfigurableField, ListField, RangeField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.kernels import evaluate_kernel
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.noise import NoiseMap
from ..algorithms.report.figures import circular_mean, describe_kernels
from .assess_difference import METRICS_MASK_PLANES, exposure_seed, mask_fractions
from .sky_objects import SkyObjectsTask

if TYPE_CHECKING:
    from lsst.images import Box, DifferenceImage, Image, MaskedImage, VisitImage

# Pixels of a square that are looked at for a median: known to 3 percent of the scatter of pixels.
_MEDIAN_PIXELS = 2_500
# Nodes along each axis at which the width of a PSF is measured.
_PSF_NODES = 4


class SpatiallySampledMetricsConfig(Config):
    """Configuration of `SpatiallySampledMetricsTask`."""

    metricsMaskPlanes = ListField[str](
        doc="Planes of which fractions are given.", default=METRICS_MASK_PLANES
    )
    metricSources: Any = ConfigurableField(doc="Positions.", target=SkyObjectsTask)
    metricRegionSize = RangeField[int](
        doc="Half side in pixels of the squares that are looked at.", default=100, min=1
    )

    def setDefaults(self) -> None:
        """Positions may lie on sources: the image is looked at as it is."""
        super().setDefaults()
        self.metricSources.avoidMask = ["NO_DATA", "EDGE"]


class SpatiallySampledMetricsTask(Task):
    """Look at a difference in squares around positions all over it.

    Notes
    -----
    Columns are those of the task of this name in ip_diffim.
    """

    ConfigClass = SpatiallySampledMetricsConfig
    _DefaultName = "spatiallySampledMetrics"
    config: SpatiallySampledMetricsConfig
    metricSources: Any

    def __init__(self, config: Config | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.makeSubtask("metricSources")

    @timeMethod
    def run(
        self,
        science: VisitImage,
        matchedTemplate: VisitImage,
        template: VisitImage,
        difference: DifferenceImage,
        diaSources: Table | None,
        psfMatchingKernel: Any,
    ) -> Struct:
        """Measure.

        Parameters
        ----------
        science, matchedTemplate, template : `lsst.images.VisitImage`
            Science exposure, and template with and without its PSF matched, on the same pixels.
        difference : `lsst.images.DifferenceImage`
            Difference, with its detections in the mask.
        diaSources : `astropy.table.Table` or `None`
            The catalogue.
        psfMatchingKernel : `lsst.images.convolution_kernels.ConvolutionKernel` or `None`
            Matching kernel.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``spatiallySampledMetrics`` (`astropy.table.Table`): a row for each position. Values and variances
            are medians of the square, in nJy if the science exposure is calibrated; densities count the
            catalogue, without its sky sources; ``dipole_direction`` is the mean of ``dipoleAngle``.
        """
        table = self.metricSources.run(difference.mask, seed=exposure_seed(difference)).sources
        table.add_column(np.arange(1, len(table) + 1, dtype=np.int64), name="id", index=0)
        x, y = np.asarray(table["x"]), np.asarray(table["y"])
        half = self.config.metricRegionSize
        boxes = [_square(difference.bbox, x=xi, y=yi, half=half) for xi, yi in zip(x, y, strict=True)]
        sky = _add_coordinates(table, difference, x, y)
        _add_densities(table, difference, diaSources, boxes)
        self._add_values(table, science, matchedTemplate, difference, boxes, x, y)
        for name, exposure in (("science", science), ("template", template)):
            table[f"{name}_psfSize"] = Column(_psf_sizes(exposure, x, y), unit=u.pix, description="FWHM")
        fractions = [mask_fractions(difference.mask[box], self.config.metricsMaskPlanes) for box in boxes]
        for plane in self.config.metricsMaskPlanes:
            name = f"{plane.lower()}_mask_fraction"
            table[name] = Column([f[name] for f in fractions], dtype=np.float32)
        _add_kernel(table, difference, psfMatchingKernel, sky, x, y)
        return Struct(spatiallySampledMetrics=table)

    def _add_values(
        self,
        table: Table,
        science: VisitImage,
        matched: VisitImage,
        difference: DifferenceImage,
        boxes: list[Box],
        x: np.ndarray,
        y: np.ndarray,
    ) -> None:
        """Add medians of images and variances."""
        scale, unit = calibration(difference, x, y)
        for name, exposure in (("template", matched), ("science", science), ("diffim", difference)):
            values = np.array([_median(exposure.image, box) for box in boxes])
            variances = np.array([_median(exposure.variance, box) for box in boxes])
            table[f"{name}_value"] = Column(
                values * scale, unit=unit, description=f"Median of the {name} image"
            )
            table[f"{name}_variance"] = Column(
                variances * scale**2, unit=unit**2, description=f"Median variance of the {name} image"
            )


def calibration(exposure: MaskedImage, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, u.UnitBase]:
    """Return factors to nJy at positions and nJy, or 1 and the unit of the pixels without a calibration."""
    unit: Any = exposure.unit
    scaling = getattr(exposure, "photometric_scaling", None)
    if unit.is_equivalent(u.nJy):
        return np.full(x.shape, float(unit.to(u.nJy))), u.nJy
    if scaling is None or scaling.unit is None or not (unit * scaling.unit).is_equivalent(u.nJy):
        return np.ones(x.shape), unit
    if len(x) == 0:
        return np.ones(x.shape), u.nJy
    return np.asarray(scaling(x=x, y=y), float) * float((unit * scaling.unit).to(u.nJy)), u.nJy


def _square(bbox: Box, *, x: float, y: float, half: int) -> Box:
    """Return the square around a position, as far as it lies in a box."""
    from lsst.images import Box

    ix, iy = round(x), round(y)
    return Box.factory[iy - half : iy + half + 1, ix - half : ix + half + 1].intersection(bbox)


def _median(image: Image, box: Box) -> float:
    """Return the median of a regular subset of the pixels of a box."""
    pixels = image[box].array
    step = max(1, int(np.sqrt(pixels.size / _MEDIAN_PIXELS)))
    some = pixels[::step, ::step].ravel()
    some = some[~np.isnan(some)]
    return float(np.median(some)) if some.size else float("nan")


def _add_coordinates(table: Table, difference: DifferenceImage, x: np.ndarray, y: np.ndarray) -> Any:
    """Add right ascension and declination; return the coordinates, `None` if there is no row."""
    sky = None if len(x) == 0 else difference.sky_projection.pixel_to_sky(x=x, y=y)
    for name in ("ra", "dec"):
        values = np.empty(0) if sky is None else getattr(sky, name).deg
        table[name] = Column(values, unit=u.deg)
    return sky


def _pixel_scale(difference: DifferenceImage) -> float:
    """Return the side of a pixel in the middle of the image in arcsec."""
    box = difference.bbox
    x, y = np.array([0.0, 1.0, 0.0]) + box.x.center, np.array([0.0, 0.0, 1.0]) + box.y.center
    sky = difference.sky_projection.pixel_to_sky(x=x, y=y)
    return float(sky[0].separation(sky[1:]).arcsec.mean())


def _add_densities(
    table: Table, difference: DifferenceImage, sources: Table | None, boxes: list[Box]
) -> None:
    """Add densities of sources and dipoles, and what dipoles look like."""
    scale = _pixel_scale(difference)
    columns: dict[str, list[float]] = {
        name: [] for name in ("source_density", "dipole_density", "dipole_direction", "dipole_separation")
    }
    x, y, dipole, angle, length = _source_columns(sources)
    for box in boxes:
        area = box.area * (scale / 3600.0) ** 2
        inside = (x >= box.x.start) & (x < box.x.stop) & (y >= box.y.start) & (y < box.y.stop)
        both = inside & dipole
        columns["source_density"].append(np.count_nonzero(inside) / area)
        columns["dipole_density"].append(np.count_nonzero(both) / area)
        columns["dipole_direction"].append(circular_mean(np.radians(angle[both])))
        columns["dipole_separation"].append(float(length[both].mean()) / scale if both.any() else np.nan)
    units = (u.deg**-2, u.deg**-2, u.rad, u.pix)
    for (name, values), unit in zip(columns.items(), units, strict=True):
        table[name] = Column(np.array(values, dtype=float), unit=unit)


def _source_columns(sources: Table | None) -> tuple[np.ndarray, ...]:
    """Return x, y, whether it is a dipole, its angle (deg) and length (arcsec) of what is no sky source."""
    if sources is None:
        return tuple(np.zeros(0, dtype) for dtype in (float, float, bool, float, float))
    if "sky_source" in sources.colnames:
        sources = sources[~np.asarray(sources["sky_source"], bool)]

    def column(name: str, default: Any) -> np.ndarray:
        if name in sources.colnames:
            return np.ma.filled(np.ma.asarray(np.asanyarray(sources[name])), default)
        return np.full(len(sources), default)

    return (
        column("x", np.nan),
        column("y", np.nan),
        column("isDipole", False).astype(bool),
        column("dipoleAngle", np.nan),
        column("dipoleLength", np.nan),
    )


def _psf_sizes(exposure: VisitImage, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the FWHM of the PSF at positions, in pixels."""
    grid = sample_psf(exposure.psf, exposure.bbox, grid=_PSF_NODES)
    widths = np.array([[psf_fwhm(stamp) for stamp in row] for row in grid.stamps])
    box = exposure.bbox
    values = NoiseMap(values=widths, x=grid.x, y=grid.y).evaluate(x=x - box.x.start, y=y - box.y.start)
    return np.asarray(values, dtype=np.float32)


def _add_kernel(
    table: Table, difference: DifferenceImage, kernel: Any, sky: Any, x: np.ndarray, y: np.ndarray
) -> None:
    """Add sum and centroid of the kernel."""
    empty = np.full(len(x), np.nan)
    sums, dx, dy, angle = empty, empty, empty, empty
    if kernel is not None and sky is not None:
        box = difference.bbox
        figures = describe_kernels(evaluate_kernel(kernel, box, x=x - box.x.start, y=y - box.y.start))
        sums, dx, dy = figures.sums, figures.dx, figures.dy
        there = difference.sky_projection.pixel_to_sky(x=x + dx, y=y + dy)
        angle = sky.position_angle(there).wrap_at(180 * u.deg).rad
    for name, values, unit, text in (
        ("sum", sums, None, "Sum"),
        ("dx", dx, u.pix, "Centroid along x"),
        ("dy", dy, u.pix, "Centroid along y"),
        ("length", np.hypot(dx, dy) * _pixel_scale(difference), u.arcsec, "Distance of the centroid"),
        ("position_angle", angle, u.rad, "Direction of the centroid, east of north"),
        ("direction", np.arctan2(dy, dx), u.rad, "Direction of the centroid from the x axis"),
    ):
        table[f"psfMatchingKernel_{name}"] = Column(
            np.asarray(values, np.float32), unit=unit, description=f"{text} of the kernel"
        )
