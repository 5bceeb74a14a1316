"""The table archive of an exposure file of the LSST stack: objects of `lsst.afw`, each in rows of tables.

The index, a binary table with ``EXTTYPE = 'ARCHIVE_INDEX'``, says for every object its class, and which rows
of which of the tables behind it are its own. Objects refer to each other by number; 0 stands for none.
"""

from __future__ import annotations

__all__ = ("AfwComponentError", "Row", "StoredObject", "TableArchive", "UnknownClassError")

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from ..fits_files import UnreadableExposureError

Row = dict[str, Any]
"""One row of a table by name of column; bits of the column ``flags`` by their own names."""

Reader = Callable[["TableArchive", "StoredObject"], Any]

# Columns of the index.
_INDEX = ("id", "cat.archive", "cat.persistable", "row0", "nrows", "name", "module")
# An object that the stack wrote without any table.
_NO_TABLE = -1
_MAX_DEPTH = 50


class AfwComponentError(ValueError):
    """A component of an exposure cannot be read.

    Attributes
    ----------
    name : `str`
        Name of its class, or of the component where the class is not known.
    problem, cure : `str`
        What is wrong with it, and what can be done, if anything.
    """

    def __init__(self, name: str, problem: str, cure: str = "") -> None:
        super().__init__(f"{name}: {problem}.{' ' + cure if cure else ''}")
        self.name, self.problem, self.cure = name, problem, cure

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.problem, self.cure)


class UnknownClassError(AfwComponentError):
    """A component is of a class that this package does not know."""


@dataclass(frozen=True)
class StoredObject:
    """What an archive holds of one object.

    Attributes
    ----------
    number : `int`
        Its number in the archive.
    name, module : `str`
        Name of its class, and the module of the stack that registers it.
    tables : `tuple` [`list` [`dict`]]
        Rows of each of its tables, in the order in which the class wrote them.
    """

    number: int
    name: str
    module: str
    tables: tuple[list[Row], ...]

    def row(self, table: int = 0) -> Row:
        """Return the only row of a table."""
        if len(self.tables) <= table or len(self.tables[table]) != 1:
            raise AfwComponentError(self.name, f"its table {table} does not have the one row that it should")
        return self.tables[table][0]


class TableArchive:
    """Objects of an archive, made when they are asked for, each once.

    Parameters
    ----------
    index : `list` [`dict`]
        Rows of the index.
    tables : `list` [`list` [`dict`]]
        Rows of the tables behind it.
    readers : `dict` [`str`, `~collections.abc.Callable`]
        Function of archive and `StoredObject` that makes the object, by name of class.
    """

    def __init__(self, index: list[Row], tables: list[list[Row]], readers: dict[str, Reader]) -> None:
        self._tables = tables
        self._readers = readers
        self._entries: dict[int, list[Row]] = {}
        for row in sorted(index, key=lambda r: (int(r["id"]), int(r["cat.persistable"]))):
            self._entries.setdefault(int(row["id"]), []).append(row)
        self._made: dict[int, Any] = {}
        self._open: list[int] = []

    @classmethod
    def read(
        cls, hdus: fits.HDUList, first: int, path: str | Path, readers: dict[str, Reader]
    ) -> TableArchive:
        """Read the tables of a file.

        Parameters
        ----------
        hdus : `astropy.io.fits.HDUList`
            The file.
        first : `int`
            Which HDU is the index, counted from 0.
        path : `str` or `pathlib.Path`
            The file, for messages.
        readers : `dict`
            As for the constructor.

        Raises
        ------
        UnreadableExposureError
            If there is no archive where there should be, or its tables are not all there.
        """
        again = "The file is cut short or damaged: fetch or write it again"
        if not 0 < first < len(hdus) or hdus[first].header.get("EXTTYPE") != "ARCHIVE_INDEX":
            raise UnreadableExposureError(path, f"HDU {first} is no index of a table archive", again)
        index_hdu = hdus[first]
        count = index_hdu.header.get("AR_NCAT", 1)
        if len(hdus) < first + count:
            problem = f"its archive should have {count} tables and has {len(hdus) - first}"
            raise UnreadableExposureError(path, problem, again)
        try:
            index = _read_rows(index_hdu)
            tables = [_read_rows(hdus[first + n]) for n in range(1, count)]
        except Exception as error:  # astropy raises whatever it meets in the bytes
            raise UnreadableExposureError(path, f"its archive cannot be read ({error})", again) from error
        if index and not set(_INDEX) <= set(index[0]):
            raise UnreadableExposureError(
                path, f"the index of its archive has columns {list(index[0])}", again
            )
        return cls(index, tables, readers)

    def describe(self, number: int) -> StoredObject:
        """Return the rows of an object.

        Raises
        ------
        AfwComponentError
            If there is no object of this number, or the index points outside the tables.
        """
        entries = self._entries.get(int(number))
        if not entries:
            raise AfwComponentError(f"object {number}", "the archive does not have it")
        name, module = (str(entries[0][key]).strip() for key in ("name", "module"))
        tables = tuple(self._rows_of(entry, name) for entry in entries if entry["cat.archive"] != _NO_TABLE)
        return StoredObject(int(number), name, module, tables)

    def get(self, number: int) -> Any:
        """Return an object, `None` for number 0.

        Raises
        ------
        UnknownClassError
            If its class is not one of the readers'.
        AfwComponentError
            If what is stored of it does not fit together.
        """
        number = int(number)
        if number == 0:
            return None
        if number not in self._made:
            self._made[number] = self._make(number)
        return self._made[number]

    def _make(self, number: int) -> Any:
        stored = self.describe(number)
        if number in self._open or len(self._open) > _MAX_DEPTH:
            raise AfwComponentError(stored.name, "objects of the archive refer to each other in a circle")
        reader = self._readers.get(stored.name)
        if reader is None:
            raise UnknownClassError(
                stored.name,
                f"no class of this name (of {stored.module or 'an unknown module'}) is known here",
            )
        self._open.append(number)
        try:
            return reader(self, stored)
        except AfwComponentError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise AfwComponentError(
                stored.name, f"its tables are not those of the class ({type(error).__name__}: {error})"
            ) from error
        finally:
            self._open.pop()

    def _rows_of(self, entry: Row, name: str) -> list[Row]:
        table, start, n = (int(entry[key]) for key in ("cat.archive", "row0", "nrows"))
        if not 1 <= table <= len(self._tables) or start < 0 or n < 0:
            raise AfwComponentError(
                name, f"the index has it in table {table}, which the archive does not have"
            )
        rows = self._tables[table - 1][start : start + n]
        if len(rows) != n:
            raise AfwComponentError(name, f"the index has it in {n} rows of a table that ends before")
        return rows


def _read_rows(hdu: fits.BinTableHDU) -> list[Row]:
    """Return the rows of a table."""
    header, data = hdu.header, hdu.data
    names = list(hdu.columns.names)
    flags = [str(header[f"TFLAG{n}"]) for n in range(1, len(header) + 1) if f"TFLAG{n}" in header]
    flag_column = names[header["FLAGCOL"] - 1] if "FLAGCOL" in header else None
    columns = {name: data[name] for name in names}
    rows = []
    for i in range(len(data)):
        row = {name: _plain(column[i]) for name, column in columns.items()}
        if flag_column is not None:
            bits = np.atleast_1d(row.pop(flag_column))
            row.update({name: bool(bit) for name, bit in zip(flags, bits, strict=False)})
        rows.append(row)
    return rows


def _plain(value: Any) -> Any:
    """Return a value in the byte order of the machine."""
    if isinstance(value, np.ndarray):
        return value.astype(value.dtype.newbyteorder("="), copy=False)
    return value.item() if isinstance(value, np.generic) else value
