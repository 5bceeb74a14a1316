"""Tables of positions at which something is to be measured."""

from __future__ import annotations

__all__ = ("FORMATS", "PositionsError", "read_positions")

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from astropy.table import Table

_LOG = logging.getLogger(__name__)

FORMATS = {
    ".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".fits": "fits", ".parquet": "parquet", ".parq": "parquet",
}  # fmt: skip
"""Formats of astropy by the ending of a file."""

_MEASURED = ("psfFlux", "scienceFlux", "templateFlux")


class PositionsError(Exception):
    """The table of positions cannot be used."""


def read_positions(path: Path) -> Table:
    """Read a table of positions.

    Parameters
    ----------
    path : `pathlib.Path`
        CSV, ECSV, FITS or parquet file.

    Returns
    -------
    positions : `astropy.table.Table`
        Its columns but for those that a measurement has, positions as floats: NaN where they are missing.

    Raises
    ------
    PositionsError
        If the file cannot be read, or has no columns of positions.
    """
    from astropy.table import Table

    if path.suffix not in FORMATS:
        raise PositionsError(f"{path} must end in one of {', '.join(FORMATS)}.")
    try:
        table = Table.read(path, format=FORMATS[path.suffix])
    except FileNotFoundError:
        raise PositionsError(f"there is no file {path}.") from None
    except Exception as error:  # of many kinds, by format and flaw
        raise PositionsError(f"{path} cannot be read as {FORMATS[path.suffix]}: {error}") from error
    pair = next((p for p in (("ra", "dec"), ("x", "y")) if set(p) <= set(table.colnames)), None)
    if pair is None:
        raise PositionsError(
            f"{path} must have columns ra and dec (angles) or x and y (pixels), but has "
            f"{', '.join(table.colnames) or 'none'}; rename those that hold the positions."
        )
    for name in pair:
        table[name] = _as_floats(table[name], f"column {name} of {path}")
    if pair[0] == "ra":
        _check_sky(table, path)
    dropped = [name for name in table.colnames if name not in pair and _is_measured(name)]
    if dropped:
        _LOG.warning("Columns of %s that are measured anew: %s.", path, ", ".join(dropped))
        table.remove_columns(dropped)
    return table


def _as_floats(column: Any, name: str) -> Any:
    """Return a column of floats with NaN for what is missing, and its unit."""
    import numpy as np
    from astropy.table import Column

    values = np.ma.asarray(column)
    try:
        floats = np.ma.filled(values.astype(float), np.nan)
    except (TypeError, ValueError):
        example = next((str(v) for v in values.compressed()), "")
        raise PositionsError(f"{name} must hold numbers, and has {example!r}.") from None
    return Column(floats, unit=column.unit, description=getattr(column, "description", None))


def _check_sky(table: Table, path: Path) -> None:
    """Refuse angles that are none."""
    import astropy.units as u
    import numpy as np

    try:
        dec = u.Quantity(table["dec"], unit=table["dec"].unit or u.deg).to_value(u.deg)
        u.Quantity(table["ra"], unit=table["ra"].unit or u.deg).to_value(u.deg)
    except u.UnitConversionError as error:
        raise PositionsError(f"ra and dec of {path} must be angles: {error}.") from error
    wrong = np.flatnonzero(np.abs(dec) > 90.0)
    if len(wrong):
        raise PositionsError(
            f"dec of {path} must lie between -90 and 90 degrees, and is {dec[wrong[0]]:g} in row "
            f"{wrong[0] + 1}; are ra and dec interchanged?"
        )


def _is_measured(name: str) -> bool:
    """Tell whether a measurement writes a column of this name."""
    places = ("visit", "detector", "band", "midpointMjdTai", "x", "y")
    return name in places or name.removesuffix("_edge").removesuffix("_flag").removesuffix("Err") in _MEASURED
