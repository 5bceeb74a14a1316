"""Exposures in plain FITS files: an image, and whichever planes and models come with it.

Understood are, beside the image (the first HDU that has one, or the one asked for): ``MASK``, ``VARIANCE``
(or an inverse variance, or an error plane), ``PSF`` (one stamp), ``PSFGRID`` (stamps ``(N, S, S)``) with
``PSFPOS`` (their positions x, y in pixels, that of the first pixel (0, 0)), and a FITS WCS.
"""

from __future__ import annotations

__all__ = ("PlainExposure", "find_wcs", "read_plain_fits")

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyError
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from ..algorithms.psf_grid import PsfGrid
from .fits_files import UnreadableExposureError, has_pixels, open_fits, read_array
from .header_values import find_unit, find_zero_point
from .masks import resolve_plane_name
from .psfs import InvalidPsfError, square_odd

_IMAGE_NAMES = ("IMAGE", "SCI")
_MASK_NAMES = ("MASK", "DQ", "BPM", "FLAGS")
_VARIANCE_NAMES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "VARIANCE": np.positive,
    "VAR": np.positive,
    "IVAR": np.reciprocal,
    "ERR": np.square,
    "ERROR": np.square,
    "SIGMA": np.square,
    "RMS": np.square,
    "UNCERT": np.square,
}
_OTHER_NAMES = ("PSF", "PSFGRID", "PSFPOS", "WHT", "WEIGHT", "CON", "CTX")

# What the bits of a mask without names mean: the first two as the stack always numbered them.
_DEFAULT_BITS = {0: "BAD", 1: "SATURATED"}


@dataclass(frozen=True)
class PlainExposure:
    """What a plain FITS file holds; `None` for what it lacks.

    Attributes
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Pixels; those without data are NaN.
    header : `astropy.io.fits.Header`
        Header of the image, with the cards of the primary header that it does not have itself.
    unit : `astropy.units.UnitBase`
        Pixel unit.
    planes : `dict` [`str`, `numpy.ndarray`] or `None`
        Mask planes by their `lsst.images` names, ``(Ny, Nx)``, bool.
    variance : `numpy.ndarray`, ``(Ny, Nx)``, float32, or `None`
        Variance in squared pixel units; NaN where the file has none that is positive.
    psf : `PsfGrid` or `None`
        PSF in array coordinates.
    wcs : `astropy.wcs.WCS` or `None`
        Celestial WCS.
    zero_point : `float` or `None`
        AB magnitude of one pixel unit.
    notes : `dict` [`str`, `str`]
        Sentences on what had to be assumed, by topic.
    """

    image: np.ndarray
    header: fits.Header
    unit: u.UnitBase
    planes: dict[str, np.ndarray] | None
    variance: np.ndarray | None
    psf: PsfGrid | None
    wcs: WCS | None
    zero_point: float | None
    notes: dict[str, str] = field(default_factory=dict)


def read_plain_fits(
    path: str | Path, *, hdu: int | str | None = None, mask_planes: Mapping[int, str] | None = None
) -> PlainExposure:
    """Read a plain FITS file.

    Parameters
    ----------
    path : `str` or `pathlib.Path`
        File.
    hdu : `int` or `str`, optional
        Number or name of the HDU with the image; found if not given.
    mask_planes : `~collections.abc.Mapping` [`int`, `str`], optional
        Plane names, old or new, of the bits of the mask. If not given they come from the header of the mask
        (``MP_SAT = 1`` or ``MSKN0001 = 'SATURATED'``); without those bit 0 is ``BAD``, bit 1 ``SATURATED``
        and every other bit counts as ``BAD``.

    Returns
    -------
    exposure : `PlainExposure`
        Pixels, header and whatever else there is.

    Raises
    ------
    UnreadableExposureError
        If there is no image, or a plane does not fit it.
    """
    notes: dict[str, str] = {}
    with open_fits(path) as hdus:
        index = _find_image(hdus, path, hdu, notes)
        image = _read_plane(hdus, index, path).astype(np.float32, copy=False)
        damaged = [name for hdu in hdus for name in _drop_unreadable(hdu.header)]
        header = _merge_headers(hdus, index)
        planes = _read_mask(hdus, path, image.shape, mask_planes, notes)
        variance = _read_variance(hdus, path, image.shape)
        psf = _read_psf(hdus, path)
    if not np.isfinite(image).any():
        raise UnreadableExposureError(path, "none of its pixels is finite", "Give an image with data in it")
    if damaged:
        notes["header"] = f"cards of the header that cannot be read are left out: {', '.join(damaged)}"
    unit, guessed = find_unit(header)
    if guessed:
        notes["unit"] = guessed
    return PlainExposure(
        image=image,
        header=header,
        unit=unit,
        planes=planes,
        variance=variance,
        psf=psf,
        wcs=find_wcs(header, notes),
        zero_point=find_zero_point(header),
        notes=notes,
    )


def _find_image(hdus: fits.HDUList, path: str | Path, hdu: int | str | None, notes: dict[str, str]) -> int:
    """Return the index of the HDU with the image."""
    images = [i for i, h in enumerate(hdus) if _is_image(h)]
    if hdu is not None:
        try:
            index = hdus.index_of(hdu)
        except KeyError:
            index = -1
        if index not in images:
            raise UnreadableExposureError(
                path, f"HDU {hdu!r} has no image", f"Those with an image are {images}"
            )
        return index
    auxiliary = {*_MASK_NAMES, *_VARIANCE_NAMES, *_OTHER_NAMES}
    candidates = [i for i in images if hdus[i].name.upper() not in auxiliary]
    if not candidates:
        raise UnreadableExposureError(
            path, "no HDU has an image of two dimensions", "Give a file with a calibrated image"
        )
    named = [i for i in candidates if hdus[i].name.upper() in _IMAGE_NAMES]
    index = (named or candidates)[0]
    if len(candidates) > 1:
        notes["hdu"] = f"HDU {index} taken of the {len(candidates)} with an image ({candidates})"
    return index


def _is_image(hdu: fits.hdu.base._BaseHDU) -> bool:
    return has_pixels(hdu) and len([n for n in hdu.shape if isinstance(n, int) and n > 1]) >= 2


def _read_plane(hdus: fits.HDUList, index: int, path: str | Path) -> np.ndarray:
    array = read_array(hdus, index, path)
    if array.ndim != 2:
        raise UnreadableExposureError(
            path, f"HDU {index} has the shape {array.shape}", "Give an image of two dimensions"
        )
    return array


def _merge_headers(hdus: fits.HDUList, index: int) -> fits.Header:
    """Return the header of an HDU and what the primary one says more."""
    header = hdus[index].header.copy()
    structural = {"SIMPLE", "XTENSION", "BITPIX", "EXTEND", "PCOUNT", "GCOUNT", "COMMENT", "HISTORY", ""}
    for card in hdus[0].header.cards if index else ():
        if (
            card.keyword not in structural
            and not card.keyword.startswith("NAXIS")
            and card.keyword not in header
        ):
            header.append(card)
    return header


def _drop_unreadable(header: fits.Header) -> list[str]:
    """Take cards out of a header that raise when somebody asks for them; return their names."""
    dropped = []
    for number in reversed(range(len(header))):
        try:
            header[number]
        except VerifyError:
            dropped.append(header.cards[number].keyword)
            del header[number]
    return dropped[::-1]


def _find_named(hdus: fits.HDUList, names: tuple[str, ...]) -> int | None:
    for name in names:
        for i, hdu in enumerate(hdus):
            if hdu.name.upper() == name:
                return i
    return None


def _read_mask(
    hdus: fits.HDUList,
    path: str | Path,
    shape: tuple[int, int],
    mask_planes: Mapping[int, str] | None,
    notes: dict[str, str],
) -> dict[str, np.ndarray] | None:
    """Return mask planes by name."""
    index = _find_named(hdus, _MASK_NAMES)
    if index is None:
        return None
    bits = _read_plane(hdus, index, path)
    _check_shape(path, hdus[index].name, bits.shape, shape)
    bits = bits.astype(np.int64)
    names = dict(mask_planes) if mask_planes is not None else _named_bits(hdus[index].header)
    if not names:
        names = _DEFAULT_BITS
        notes["mask"] = "mask bits without names: bit 0 taken as BAD, bit 1 as SATURATED, all others as BAD"
    planes: dict[str, np.ndarray] = {}
    for bit in range(int(bits.max()).bit_length()):
        marked = (bits >> bit) & 1 == 1
        if marked.any():
            plane = _plane_name(names.get(bit))
            planes[plane] = planes.get(plane, False) | marked
    return planes


def _named_bits(header: fits.Header) -> dict[int, str]:
    """Return bit to plane name from afw's ``MP_`` cards or those of `lsst.images`."""
    names = {int(v): k.removeprefix("MP_") for k, v in header.items() if k.startswith("MP_")}
    for key in header:
        if key.startswith("MSKN") and key[4:].isdigit():
            names[int(header[f"MSKM{key[4:]}"]).bit_length() - 1] = str(header[key])
    return names


def _plane_name(name: str | None) -> str:
    """Return the new name of a plane, ``BAD`` for one nobody knows."""
    try:
        return "BAD" if name is None else resolve_plane_name(name)
    except ValueError:
        return "BAD"


def _read_variance(hdus: fits.HDUList, path: str | Path, shape: tuple[int, int]) -> np.ndarray | None:
    index = _find_named(hdus, tuple(_VARIANCE_NAMES))
    if index is None:
        return None
    name = hdus[index].name.upper()
    values = _read_plane(hdus, index, path).astype(np.float64)
    _check_shape(path, name, values.shape, shape)
    with np.errstate(all="ignore"):
        variance = _VARIANCE_NAMES[name](values)
        positive = np.isfinite(variance) & (values > 0)
    if not positive.any():
        raise UnreadableExposureError(
            path,
            f"{name} has no pixel that is positive and finite",
            "Remove this extension to have the variance made from the gain or the pixel scatter",
        )
    return np.where(positive, variance, np.nan).astype(np.float32)


def _check_shape(path: str | Path, name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise UnreadableExposureError(
            path, f"{name} has the shape {shape} and the image {expected}", "They have to be the same"
        )


def _read_psf(hdus: fits.HDUList, path: str | Path) -> PsfGrid | None:
    """Return the PSF from ``PSFGRID`` and ``PSFPOS``, or else from ``PSF``."""
    cube, positions, single = (_find_named(hdus, (name,)) for name in ("PSFGRID", "PSFPOS", "PSF"))
    if cube is not None and positions is not None:
        return _grid_from_cube(read_array(hdus, cube, path), _read_positions(hdus, positions, path), path)
    if single is None or not has_pixels(hdus[single]) or not hdus[single].shape:
        return None
    stamp = _read_plane(hdus, single, path)
    return PsfGrid.constant(_normalised(stamp[None], path)[0])


def _read_positions(hdus: fits.HDUList, index: int, path: str | Path) -> np.ndarray:
    """Return ``(N, 2)`` positions x, y from a table or an image."""
    if has_pixels(hdus[index]):
        return np.asarray(read_array(hdus, index, path), dtype=float).reshape(-1, 2)
    names = hdus[index].columns.names if isinstance(hdus[index], fits.BinTableHDU | fits.TableHDU) else []
    columns = {name.lower(): name for name in names}
    if not {"x", "y"} <= set(columns):
        raise UnreadableExposureError(path, f"the columns of PSFPOS are {names}", "They have to be x and y")
    table = hdus[index].data
    return np.stack([np.asarray(table[columns[c]], dtype=float) for c in "xy"], axis=1)


def _grid_from_cube(cube: np.ndarray, positions: np.ndarray, path: str | Path) -> PsfGrid:
    """Sort stamps into a regular grid."""
    xs, ys = np.unique(positions[:, 0]), np.unique(positions[:, 1])
    if cube.ndim != 3 or len(cube) != len(positions) or len(xs) * len(ys) != len(positions):
        raise UnreadableExposureError(
            path,
            f"PSFGRID of shape {cube.shape} and {len(positions)} positions at {len(xs)} x and {len(ys)} y",
            "The stamps have to stand on a regular grid, one for every pair of x and y",
        )
    stamps = _normalised(cube, path)
    grid = np.zeros((len(ys), len(xs), *stamps.shape[1:]))
    grid[np.searchsorted(ys, positions[:, 1]), np.searchsorted(xs, positions[:, 0])] = stamps
    return PsfGrid(stamps=grid, x=xs, y=ys)


def _normalised(stamps: np.ndarray, path: str | Path) -> np.ndarray:
    """Return unit-sum stamps of odd side."""
    stamps = np.array([square_odd(np.asarray(stamp, dtype=float)) for stamp in stamps])
    sums = stamps.sum(axis=(1, 2))
    if not np.isfinite(sums).all() or not (sums > 0).all():
        raise InvalidPsfError(
            f"The PSF in {path} has {np.count_nonzero(~(sums > 0))} of {len(sums)} stamps whose sum is not "
            "positive and finite; remove the PSF extensions to have it measured from the stars."
        )
    return stamps / sums[:, None, None]


def find_wcs(header: fits.Header, notes: dict[str, str]) -> WCS | None:
    """Return the celestial WCS of a header, `None` if it has none that works.

    Parameters
    ----------
    header : `astropy.io.fits.Header`
        Header.
    notes : `dict` [`str`, `str`]
        Gets a sentence ``wcs`` if there is one that does not work.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            wcs = WCS(header)
            if wcs.has_celestial and np.isfinite(wcs.celestial.pixel_to_world_values(0.0, 0.0)).all():
                return wcs.celestial
    except Exception as error:  # wcslib raises a dozen kinds, all of them a header that does not work
        reason = " ".join(str(error).split())  # of wcslib, on several lines
        notes["wcs"] = f"the WCS of the header cannot be used ({reason})"
    return None
