"""Stars of a source catalogue of the stack for the matching kernel."""

from __future__ import annotations

__all__ = (
    "keep_brightest",
    "make_source_catalog",
    "minimal_schema",
    "select_kernel_sources",
    "set_box_footprints",
    "source_table",
)

from collections.abc import Sequence
from typing import Any

import numpy as np
from astropy.table import Table

from .exposures import plane_pixels


def source_table(sources: Any) -> Table:
    """Return positions of a source catalogue as the subtraction wants them (``x``, ``y``, pixels)."""
    x = np.array([source.getX() for source in sources], dtype=float)
    y = np.array([source.getY() for source in sources], dtype=float)
    return Table({"x": x, "y": y})


def select_kernel_sources(
    sources: Any,
    selected: np.ndarray,
    masks: Sequence[Any],
    *,
    kernel_size: int,
    exclude: Sequence[str],
    border: int,
) -> Any:
    """Return sources that can serve for the kernel, with square footprints.

    Parameters
    ----------
    sources : `lsst.afw.table.SourceCatalog`
        Sources; not modified.
    selected : `numpy.ndarray`, ``(N,)``, bool
        Those that meet the criteria of the catalogue.
    masks : sequence of `lsst.afw.image.Mask`
        Masks of the two exposures on the same pixels.
    kernel_size : `int`
        Side of the kernel in pixels; that of the footprints is twice as much and one.
    exclude : sequence of `str`
        Planes; a source with such a pixel in its footprint is left out.
    border : `int`
        Pixels along the edges in which no footprint may reach.
    """
    finite = np.array([np.isfinite(s.getX()) and np.isfinite(s.getY()) for s in sources], dtype=bool)
    chosen = sources[np.asarray(selected, dtype=bool) & finite].copy(deep=True)
    set_box_footprints(chosen, half=kernel_size)
    bad = np.any([plane_pixels(mask, name) for mask in masks for name in exclude], axis=0)
    box = masks[0].getBBox()
    box.grow(-border)
    x0, y0 = masks[0].getX0(), masks[0].getY0()
    good = np.zeros(len(chosen), dtype=bool)
    for i, source in enumerate(chosen):
        area = source.getFootprint().getBBox()
        if box.contains(area):
            good[i] = not bad[
                area.getMinY() - y0 : area.getMaxY() + 1 - y0, area.getMinX() - x0 : area.getMaxX() + 1 - x0
            ].any()
    return chosen[good].copy(deep=True)


def keep_brightest(sources: Any, number: int) -> Any:
    """Return the sources of highest signal-to-noise ratio of the PSF flux; all if ``number`` is negative."""
    if number < 0 or len(sources) <= number:
        return sources
    ratio = np.asarray(sources.getPsfInstFlux()) / np.asarray(sources.getPsfInstFluxErr())
    keep = np.zeros(len(sources), dtype=bool)
    keep[np.argsort(np.where(np.isfinite(ratio), ratio, -np.inf))[-number:]] = True
    return sources[keep].copy(deep=True)


def set_box_footprints(sources: Any, *, half: int) -> None:
    """Give each source a square footprint around its centroid, with the brightest peak that it had."""
    from lsst.afw.detection import Footprint
    from lsst.afw.geom import SpanSet
    from lsst.geom import Box2I, Extent2I, Point2I

    size = Extent2I(2 * half + 1, 2 * half + 1)
    for source in sources:
        x, y = int(np.floor(source.getX() + 0.5)), int(np.floor(source.getY() + 0.5))
        footprint = Footprint(SpanSet(Box2I(Point2I(x - half, y - half), size)))
        old = source.getFootprint()
        peaks = old.getPeaks() if old is not None else []
        if len(peaks) > 0:
            footprint.addPeak(peaks[0].getFx(), peaks[0].getFy(), peaks[0].getPeakValue())
        else:
            footprint.addPeak(float(x), float(y), float(source.getPsfInstFlux()))
        source.setFootprint(footprint)


def minimal_schema() -> Any:
    """Return a schema with positions and nothing else that stars need."""
    from lsst.afw.table import SourceTable

    schema = SourceTable.makeMinimalSchema()
    for name in ("stars_x", "stars_y", "stars_instFlux", "stars_instFluxErr"):
        schema.addField(name, type="D", doc="Of a star that was found on the science exposure")
    for slot in ("Centroid", "PsfFlux"):
        schema.getAliasMap().set(f"slot_{slot}", "stars")
    return schema


def make_source_catalog(schema: Any, table: Table, *, half: int) -> Any:
    """Return a catalogue of the stars that the subtraction found itself.

    Parameters
    ----------
    schema : `lsst.afw.table.Schema`
        Schema of the catalogue, that of the sources that were given: its slots say where positions go.
    table : `astropy.table.Table`
        Stars (``x``, ``y``, pixels).
    half : `int`
        Half side of their footprints.
    """
    from lsst.afw.table import SourceCatalog

    catalog = SourceCatalog(schema)
    catalog.reserve(len(table))
    for row in table:
        record = catalog.addNew()
        record["slot_Centroid_x"], record["slot_Centroid_y"] = float(row["x"]), float(row["y"])
    set_box_footprints(catalog, half=half)
    return catalog
