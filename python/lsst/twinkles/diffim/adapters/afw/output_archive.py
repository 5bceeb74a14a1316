"""Write the table archive of an exposure file of the LSST stack."""

from __future__ import annotations

__all__ = ("Column", "OutputArchive")

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from astropy.io import fits

_TABLE_VERSION = 3  # of the layout of tables: sub-fields are joined by underscores


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    name : `str`
        Its name.
    format : `str`
        FITS format; ``flag`` for a bit.
    unit : `str`
        Unit, empty for none.
    is_array : `bool`
        Whether the stack has it as an array, also where that is of one element.
    """

    name: str
    format: str
    unit: str = ""
    is_array: bool = False

    @property
    def kind(self) -> str:
        """The class of field that the stack makes of it (`str`)."""
        if self.format.endswith("A"):
            return "String"
        return "Array" if self.is_array else "Scalar"


_INDEX = (
    Column("id", "1J"),
    Column("cat.archive", "1J"),
    Column("cat.persistable", "1J"),
    Column("row0", "1J"),
    Column("nrows", "1J"),
    Column("name", "64A"),
    Column("module", "64A"),
)


@dataclass
class _Table:
    name: str
    columns: tuple[Column, ...]
    rows: list[Sequence[Any]] = field(default_factory=list)


class OutputArchive:
    """Objects to be written, in the order in which they are put."""

    def __init__(self) -> None:
        self._index: list[Sequence[Any]] = []
        self._tables: dict[tuple[str, tuple[Column, ...]], _Table] = {}
        self._last = 0

    def put(self, name: str, module: str, columns: Sequence[Column], *rows: Sequence[Any]) -> int:
        """Add an object of one table.

        Parameters
        ----------
        name, module : `str`
            Name of its class, and the module of the stack that registers it.
        columns : sequence of `Column`
            Columns of the table, in the order of the class.
        *rows : sequence
            Values of each row.

        Returns
        -------
        number : `int`
            Number of the object.
        """
        self._last += 1
        key = (name, tuple(columns))
        table = self._tables.setdefault(key, _Table(name, tuple(columns)))
        place = list(self._tables).index(key) + 1
        self._index.append((self._last, place, 0, len(table.rows), len(rows), name, module))
        table.rows.extend(rows)
        return self._last

    def hdus(self) -> list[fits.BinTableHDU]:
        """Return the index and the tables."""
        tables = [_Table("ARCHIVE_INDEX", _INDEX, self._index), *self._tables.values()]
        return [self._hdu(table, number) for number, table in enumerate(tables)]

    def _hdu(self, table: _Table, number: int) -> fits.BinTableHDU:
        flags = [c for c in table.columns if c.format == "flag"]
        plain = [c for c in table.columns if c.format != "flag"]
        where = {c: n for n, c in enumerate(table.columns)}
        columns = []
        if flags:
            bits = np.array([[bool(row[where[c]]) for c in flags] for row in table.rows])
            columns.append(fits.Column("flags", f"{len(flags)}X", array=bits.reshape(len(table.rows), -1)))
        for column in plain:
            values = [row[where[column]] for row in table.rows]
            columns.append(_fits_column(column, values))
        hdu = fits.BinTableHDU.from_columns(columns, nrows=len(table.rows))
        self._describe(hdu.header, flags, plain)
        is_index = number == 0
        hdu.header["EXTTYPE"] = "ARCHIVE_INDEX" if is_index else "ARCHIVE_DATA"
        hdu.header["EXTNAME"] = table.name
        hdu.header["AR_CATN"] = (number, "# of this catalog in the archive")
        if is_index:
            hdu.header["AR_NCAT"] = (len(self._tables) + 1, "# of catalogs in this archive")
        else:
            hdu.header["AR_NAME"] = (table.name, "Class name for objects stored here")
            version = 1 + sum(t.name == table.name for t in list(self._tables.values())[: number - 1])
            if version > 1:
                hdu.header["EXTVER"] = version
        hdu.header["HIERARCH AFW_TABLE_VERSION"] = _TABLE_VERSION
        return hdu

    @staticmethod
    def _describe(header: fits.Header, flags: Sequence[Column], plain: Sequence[Column]) -> None:
        """Say of which class of the stack each field is."""
        if flags:
            header["FLAGCOL"] = (1, "Column number for the bitflags.")
        for n, column in enumerate(flags, start=1):
            header[f"TFLAG{n}"] = column.name
        for n, column in enumerate(plain, start=2 if flags else 1):
            header[f"TCCLS{n}"] = (column.kind, "Field template used by lsst.afw.table")


def _fits_column(column: Column, values: list[Any]) -> fits.Column:
    """Return a column with its values; bytes are of variable length."""
    unit = column.unit or None
    if column.format == "1QB":
        array = np.empty(len(values), dtype=object)
        for i, value in enumerate(values):
            array[i] = np.frombuffer(value, dtype=np.uint8)
        return fits.Column(column.name, "1QB()", unit=unit, array=array)
    return fits.Column(column.name, column.format, unit=unit, array=np.array(values))
