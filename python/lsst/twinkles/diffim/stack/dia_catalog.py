"""Make the catalogue of the stack from a table of DIA sources."""

from __future__ import annotations

__all__ = ("DiaCatalogMaker",)

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table

from ..adapters.psfs import psf_sigma, sample_psf
from .dia_columns import centre_flags, dia_columns, footprint_flags
from .exposures import box_from_afw

_SKY_HALF = 8
_DIPOLE_SIGMA = 5.0  # farthest that the lobes of a dipole may be apart, in widths of the PSF


@dataclass
class DiaCatalogMaker:
    """Turn tables into catalogues with footprints.

    Attributes
    ----------
    exposure : `lsst.afw.image.ExposureF`
        Difference.
    schema : `lsst.afw.table.Schema`
        Schema with the columns of `~lsst.twinkles.diffim.stack.dia_schema`.
    id_factory : `lsst.afw.table.IdFactory` or `None`
        Source of identifiers.
    """

    exposure: Any
    schema: Any
    id_factory: Any

    def make(self, table: Table, image: Any, detected: Any) -> Any:
        """Return the catalogue.

        Parameters
        ----------
        table : `astropy.table.Table`
            DIA sources with their measurements, one row for each peak.
        image : `lsst.images.VisitImage`
            The difference.
        detected : `lsst.pipe.base.Struct`
            Result of the detection.

        Returns
        -------
        sources : `lsst.afw.table.SourceCatalog`
            One record for each row but for peaks of opposite signs that may be the lobes of a dipole: they
            make one record, as in the stack, with the measurements of the most significant one.
        """
        from lsst.afw.table import IdFactory, SourceCatalog
        from lsst.daf.base import PropertyList

        n_detections = len(detected.sources)
        is_sky = np.arange(len(table)) >= n_detections
        reach = _DIPOLE_SIGMA * psf_sigma(sample_psf(image.psf, image.bbox, grid=1))
        groups = _group_rows(detected.sources, reach)
        first = np.array([rows[0] for rows in groups] + list(np.flatnonzero(is_sky)), dtype=int)
        members = groups + [[int(row)] for row in np.flatnonzero(is_sky)]
        catalog = SourceCatalog(self.schema)
        factory = IdFactory.makeSimple() if self.id_factory is None else self.id_factory
        catalog.setMetadata(PropertyList())
        catalog.reserve(len(first))
        footprints = _Footprints(detected, box_from_afw(self.exposure.getBBox()))
        for row, rows in zip(first, members, strict=True):
            record = catalog.addNew()
            record.setId(int(factory()))
            if is_sky[row]:
                record.setFootprint(footprints.square(table["x"][row], table["y"][row]))
            else:
                record.setFootprint(footprints.region(rows))
        self._fill(catalog, table, image, members, is_sky[first])
        return catalog

    def _fill(
        self, catalog: Any, table: Table, image: Any, members: list[list[int]], is_sky: np.ndarray
    ) -> None:
        rows = np.array([group[0] for group in members], dtype=int)
        table = _centre_dipoles(table, members)
        for name, values in dia_columns(table, self.exposure, image).items():
            catalog[name] = values[rows]
        x, y = (np.asarray(table[axis], float)[rows] for axis in "xy")
        for columns in (centre_flags(self.exposure, x, y), footprint_flags(self.exposure, catalog)):
            for name, values in columns.items():
                catalog[name] = values
        catalog["sky_source"] = is_sky
        catalog["detect_isPrimary"] = ~is_sky
        negative = np.asarray(table["isNegative"], dtype=bool)
        has_negative = np.array([negative[group].any() for group in members], dtype=bool)
        has_positive = np.array([not negative[group].all() for group in members], dtype=bool)
        catalog["merge_footprint_positive"] = has_positive & ~is_sky
        catalog["merge_footprint_negative"] = has_negative & ~is_sky
        catalog["is_negative"] = has_negative & ~has_positive & ~is_sky
        self._set_coordinates(catalog)

    def _set_coordinates(self, catalog: Any) -> None:
        wcs = self.exposure.getWcs()
        if wcs is not None and len(catalog) > 0:
            from lsst.afw.table import updateSourceCoords

            updateSourceCoords(wcs, catalog)


def _centre_dipoles(table: Table, members: list[list[int]]) -> Table:
    """Return the measurements, dipoles of two lobes at the middle between these."""
    if "isDipole" not in table.colnames:
        return table
    centred = table.copy()
    negative = np.asarray(table["isNegative"], dtype=bool)
    for group in members:
        lobes = [next((row for row in group if negative[row] == sign), None) for sign in (False, True)]
        if table["isDipole"][group[0]] and None not in lobes:
            for axis in "xy":
                centred[axis][group[0]] = 0.5 * (table[axis][lobes[0]] + table[axis][lobes[1]])
    return centred


def _group_rows(sources: Table, reach: float) -> list[list[int]]:
    """Return the rows of each record, the most significant one first.

    Peaks of opposite signs in one footprint that lie within ``reach`` pixels of each other go together.
    """
    x, y = np.asarray(sources["x"], float), np.asarray(sources["y"], float)
    footprint = np.asarray(sources["footprint"], dtype=int)
    negative = np.asarray(sources["isNegative"], dtype=bool)
    group = np.arange(len(sources))
    for row in np.flatnonzero(np.asarray(sources["isMerged"], dtype=bool)):
        partner = (footprint == footprint[row]) & (negative != negative[row])
        near = np.flatnonzero(partner & (np.hypot(x - x[row], y - y[row]) < reach))
        for other in near:
            group[group == group[other]] = group[row]
    strength = np.abs(np.asarray(sources["significance"], float))
    members = (np.flatnonzero(group == number) for number in dict.fromkeys(group.tolist()))
    return [rows[np.argsort(-strength[rows], kind="stable")].tolist() for rows in members]


class _Footprints:
    """Footprints of afw from maps of detected pixels."""

    def __init__(self, detected: Any, box: Any) -> None:
        self.box, self.sources = box, detected.sources
        self.planes = detected.positive, detected.negative

    def region(self, rows: list[int]) -> Any:
        """Return the connected pixels around peaks, with the peaks."""
        seeds = [
            (
                int(np.rint(self.sources["y"][i])) - self.box.y.start,
                int(np.rint(self.sources["x"][i])) - self.box.x.start,
            )
            for i in rows
        ]
        both = len({bool(self.sources["isNegative"][i]) for i in rows}) > 1
        if both:
            pixels = self.planes[0] | self.planes[1]
        else:
            pixels = self.planes[1] if self.sources["isNegative"][rows[0]] else self.planes[0]
        size = int(max(self.sources["bboxSize"][i] for i in rows)) + 2
        footprint = self._footprint(_connected(pixels, seeds, size))
        for i in rows:
            position = float(self.sources["x"][i]), float(self.sources["y"][i])
            footprint.addPeak(*position, float(self.sources["significance"][i]))
        return footprint

    def square(self, x: float, y: float) -> Any:
        """Return a square of blank sky around a position."""
        from lsst.afw.detection import Footprint
        from lsst.afw.geom import SpanSet
        from lsst.geom import Box2I, Extent2I, Point2I

        left = max(int(np.rint(x)) - _SKY_HALF, self.box.x.start)
        low = max(int(np.rint(y)) - _SKY_HALF, self.box.y.start)
        width = min(int(np.rint(x)) + _SKY_HALF + 1, self.box.x.stop) - left
        height = min(int(np.rint(y)) + _SKY_HALF + 1, self.box.y.stop) - low
        footprint = Footprint(SpanSet(Box2I(Point2I(left, low), Extent2I(width, height))))
        footprint.addPeak(float(x), float(y), 0.0)
        return footprint

    def _footprint(self, pixels: tuple[np.ndarray, np.ndarray]) -> Any:
        """Return the footprint of pixels (y, x) of the image."""
        from lsst.afw.detection import Footprint
        from lsst.afw.geom import Span, SpanSet

        spans = []
        y, x = pixels
        for row in np.unique(y):
            columns = np.sort(x[y == row])
            breaks = np.flatnonzero(np.diff(columns) > 1)
            starts, stops = columns[np.r_[0, breaks + 1]], columns[np.r_[breaks, len(columns) - 1]]
            for start, stop in zip(starts, stops, strict=True):
                spans.append(
                    Span(
                        int(row) + self.box.y.start,
                        int(start) + self.box.x.start,
                        int(stop) + self.box.x.start,
                    )
                )
        return Footprint(SpanSet(spans))


def _connected(pixels: np.ndarray, seeds: list[tuple[int, int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (y, x) that are connected to any of some seeds, within ``size`` of the first."""
    from scipy.ndimage import label

    y0, x0 = max(seeds[0][0] - size, 0), max(seeds[0][1] - size, 0)
    window = pixels[y0 : seeds[0][0] + size + 1, x0 : seeds[0][1] + size + 1]
    labels, _ = label(window, structure=np.ones((3, 3)))
    inside = [
        (y - y0, x - x0) for y, x in seeds if 0 <= y - y0 < window.shape[0] and 0 <= x - x0 < window.shape[1]
    ]
    wanted = {int(labels[place]) for place in inside} - {0}
    y, x = np.nonzero(np.isin(labels, list(wanted)))
    if len(y) == 0:  # a peak whose footprint has gone to another sign
        y, x = np.array([seeds[0][0] - y0]), np.array([seeds[0][1] - x0])
    return y + y0, x + x0
