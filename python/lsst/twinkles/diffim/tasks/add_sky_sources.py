"""Rows of sky sources at the end of the catalogue."""

from __future__ import annotations

__all__ = ("append_sky_sources",)

from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Column, Table

from ..adapters.metadata import visit_number
from ..algorithms.measure.psf_fit import ForcedFluxes
from .dia_source_table import exposure_times
from .spatially_sampled_metrics import calibration

if TYPE_CHECKING:
    from lsst.images import DifferenceImage

_TEXT = "A position without a detection, for the noise of the image; its flux is forced"


def append_sky_sources(
    sources: Table, difference: DifferenceImage, positions: Table, fluxes: ForcedFluxes, *, id_base: int
) -> Table:
    """Return the catalogue with the rows of sky sources and the column ``sky_source``.

    Parameters
    ----------
    sources : `astropy.table.Table`
        The catalogue; not modified.
    difference : `lsst.images.DifferenceImage`
        Image on which the fluxes were measured.
    positions : `astropy.table.Table`
        ``x``, ``y`` in its pixel frame.
    fluxes : `~lsst.twinkles.diffim.algorithms.measure.psf_fit.ForcedFluxes`
        PSF fluxes there in the unit of the pixels.
    id_base : `int`
        First ``diaSourceId`` of the image, for a catalogue that has none.

    Returns
    -------
    table : `astropy.table.Table`
        Columns of ``sources`` and ``sky_source``. Of a sky source there are identity, time, position and PSF
        flux; other numbers are NaN or 0, flags are not set. Ids go on where those of ``sources`` end.
    """
    n = len(positions)
    known = _known_values(difference, positions, fluxes)
    if "diaSourceId" in sources.colnames:
        first = int(np.max(sources["diaSourceId"], initial=id_base - 1)) + 1
        known["diaSourceId"] = np.arange(first, first + n, dtype=np.int64)
    table = Table(meta=sources.meta)
    for name in sources.colnames:
        column = sources[name]
        values = np.concatenate([np.asarray(column), _fill(column, known.get(name), n)])
        table[name] = Column(values, unit=column.unit, description=column.description)
    is_sky = np.arange(len(sources) + n) >= len(sources)
    table["sky_source"] = Column(is_sky, description=_TEXT)
    return table


def _known_values(
    difference: DifferenceImage, positions: Table, fluxes: ForcedFluxes
) -> dict[str, np.ndarray | Any]:
    """Return what is known of sky sources, by column."""
    x, y = np.asarray(positions["x"], float), np.asarray(positions["y"], float)
    scale, _ = calibration(difference, x, y)
    info = difference.obs_info
    values: dict[str, Any] = {
        "x": x,
        "y": y,
        "psfFlux": fluxes.flux * scale,
        "psfFluxErr": fluxes.error * scale,
        "snr": fluxes.flux / fluxes.error,
        "psfNdata": fluxes.n_pixels,
        "isNegative": fluxes.flux < 0,
        "visit": visit_number(difference) or 0,
        "detector": info.detector_num or 0,
        "band": difference.band or "",
    }
    if len(x):
        sky = difference.sky_projection.pixel_to_sky(x=x, y=y)
        values |= {"ra": sky.ra.deg, "dec": sky.dec.deg}
    values["midpointMjdTai"], values["exposureTime"] = exposure_times(info)
    return values


def _fill(column: Column, values: Any, n: int) -> np.ndarray:
    """Return ``n`` values of the type of a column: those that are known, or none."""
    if values is None:
        values = np.nan if column.dtype.kind == "f" else np.zeros(1, dtype=column.dtype)[0]
    return np.broadcast_to(np.asarray(values), (n,)).astype(column.dtype)
