"""Open FITS files of any origin, with errors that say what is wrong with the file."""

from __future__ import annotations

__all__ = ("UnreadableExposureError", "has_pixels", "is_lsst_images_file", "open_fits", "read_array")

import bz2
import gzip
import lzma
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.utils.exceptions import AstropyWarning

_MAGIC = (b"SIMPLE  =", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")


class UnreadableExposureError(ValueError):
    """A file does not hold an exposure that can be read.

    Attributes
    ----------
    path : `pathlib.Path`
        The file.
    """

    def __init__(self, path: str | Path, problem: str, cure: str) -> None:
        super().__init__(f"Cannot read {path}: {problem}. {cure}")
        self.path = Path(path)
        self._parts = (problem, cure)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, *self._parts)


@contextmanager
def open_fits(path: str | Path) -> Iterator[fits.HDUList]:
    """Open a FITS file for reading, quiet about blemishes that do no harm.

    Parameters
    ----------
    path : `str` or `pathlib.Path`
        File; gzip, bzip2 and tile compression are understood.

    Yields
    ------
    hdus : `astropy.io.fits.HDUList`
        The opened file.

    Raises
    ------
    UnreadableExposureError
        If there is no such file, it is not FITS, or it cannot be parsed.
    """
    path = Path(path)
    _check_magic(path)
    with warnings.catch_warnings():
        # A missing padding at the end, a card out of order: the data are read, or read_array complains.
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            _check_counts(path)
            hdus = fits.open(path, memmap=False)
            hdus.readall() if path.suffix in (".gz", ".bz2", ".xz") else len(hdus)
        except Exception as error:  # the parser raises whatever it meets in a damaged header
            raise UnreadableExposureError(path, f"not a readable FITS file ({error})", _AGAIN) from error
        with hdus:
            yield hdus


def _check_counts(path: Path) -> None:
    """Refuse numbers of axes and columns over which readers would loop for ever.

    Looks at the headers alone; what else is wrong with them is left to those
    who read them.
    """
    opener = _OPENERS.get(path.suffix, open)
    with opener(path, "rb") as stream, suppress(EOFError, OSError, OverflowError):
        while True:
            header = fits.Header.fromfile(stream, endcard=True)
            for name, limit in _MAX_COUNTS.items():
                number = _find_number(header, name)
                if not 0 <= number <= limit:
                    raise ValueError(f"{name} is {number} and must be from 0 to {limit}")
            stream.seek(_data_size(header), os.SEEK_CUR)


def _data_size(header: fits.Header) -> int:
    """Return how many bytes of data there are behind a header, in whole blocks."""
    axes = [_find_number(header, f"NAXIS{i + 1}") for i in range(_find_number(header, "NAXIS"))]
    n_values = _find_number(header, "PCOUNT") + (math.prod(axes) if axes else 0)
    size = abs(_find_number(header, "BITPIX")) // 8 * max(1, _find_number(header, "GCOUNT")) * n_values
    return max(0, -(-size // _BLOCK) * _BLOCK)


def _find_number(header: fits.Header, name: str) -> int:
    try:
        number = header.get(name, 0)
    except VerifyError:
        return 0
    return number if isinstance(number, int) else 0


_OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_MAX_COUNTS = {"NAXIS": 99, "ZNAXIS": 99, "WCSAXES": 99, "TFIELDS": 999}
_BLOCK = 2880
_AGAIN = "It may be cut short or damaged: fetch or write the file again"


def has_pixels(hdu: Any) -> bool:
    """Tell whether an HDU is an image that can be asked for its shape.

    What a damaged header describes may be taken by astropy for an HDU of a
    general kind, of which neither need be true.
    """
    try:
        return bool(hdu.is_image) and isinstance(getattr(hdu, "shape", None), tuple)
    except VerifyError:  # the card that tells cannot be parsed
        return False


def read_array(hdus: fits.HDUList, index: int, path: str | Path) -> np.ndarray:
    """Read the pixels of one HDU, scaled, in the byte order of the machine.

    Parameters
    ----------
    hdus : `astropy.io.fits.HDUList`
        From `open_fits`.
    index : `int`
        Which HDU.
    path : `str` or `pathlib.Path`
        The file, for messages.

    Returns
    -------
    array : `numpy.ndarray`
        At least two axes; leading axes of length one are dropped.

    Raises
    ------
    UnreadableExposureError
        If the pixels are not all there or cannot be decoded.
    """
    hdu = hdus[index]
    if not has_pixels(hdu):
        raise UnreadableExposureError(path, f"HDU {index} is no image, or its header is damaged", _AGAIN)
    _check_complete(hdu, index, path)
    try:
        data = np.asarray(hdu.data)
    except Exception as error:  # the decoders raise whatever they meet
        raise UnreadableExposureError(
            path, f"the pixels of HDU {index} cannot be read ({error})", _AGAIN
        ) from error
    if data.dtype.kind not in "buif":
        raise UnreadableExposureError(
            path, f"HDU {index} holds {data.dtype} and not real numbers", "Give an image of real numbers"
        )
    data = data.astype(data.dtype.newbyteorder("="), copy=False)
    while data.ndim > 2 and data.shape[0] == 1:
        data = data[0]
    return data


def is_lsst_images_file(path: str | Path) -> bool:
    """Tell whether a file was written by `lsst.images` (FITS with its data model card, JSON or NDF)."""
    path = Path(path)
    if path.suffix in (".json", ".sdf", ".ndf", ".h5"):
        return True
    with open_fits(path) as hdus:
        return "DATAMODL" in hdus[0].header


def _check_magic(path: Path) -> None:
    if not path.exists():
        raise UnreadableExposureError(path, "there is no such file", "Check the name")
    if path.is_dir():
        raise UnreadableExposureError(path, "it is a directory", "Give the FITS file itself")
    try:
        with path.open("rb") as stream:
            start = stream.read(16)
    except OSError as error:
        raise UnreadableExposureError(path, str(error.strerror), "Check the permissions") from error
    if not start:
        raise UnreadableExposureError(path, "the file is empty", _AGAIN)
    if not start.startswith(_MAGIC):
        raise UnreadableExposureError(
            path,
            f"it is not a FITS file (it begins with {start[:8]!r})",
            "Convert it to FITS with the program that wrote it",
        )


def _check_complete(hdu: Any, index: int, path: str | Path) -> None:
    """Complain if the file ends before the pixels do; missing padding behind them does not matter."""
    info = hdu.fileinfo()
    if Path(path).suffix in (".gz", ".bz2", ".xz") or info is None or isinstance(hdu, fits.CompImageHDU):
        return
    needed = abs(_find_number(hdu.header, "BITPIX")) // 8 * int(np.prod(hdu.shape, dtype=np.int64))
    there = Path(path).stat().st_size - info["datLoc"]
    if there < needed:
        raise UnreadableExposureError(
            path, f"HDU {index} should have {needed} bytes of pixels and has {max(there, 0)}", _AGAIN
        )
