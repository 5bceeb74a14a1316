"""Masks copied by the byte, not by the plane."""

from __future__ import annotations

__all__ = ("copy_masks_by_bytes", "update_mask")

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lsst.images import Mask


def copy_masks_by_bytes() -> None:
    """Let `lsst.images.Mask.update` of this process be `update_mask`.

    Reading and writing an image copies its mask between two layouts. `lsst.images` does that plane by plane,
    which for a large CCD takes longer than everything else in the file. For the commands: who uses the
    package as a library keeps what `lsst.images` does.
    """
    from lsst.images import Mask

    if Mask.update is not update_mask:
        _originals.append(Mask.update)
        Mask.update = update_mask  # type: ignore[method-assign]


def update_mask(self: Mask, other: Mask) -> None:
    """Set the planes that are set in another mask, as `lsst.images.Mask.update` does.

    Parameters
    ----------
    other : `lsst.images.Mask`
        Where both have pixels, and planes of the same name, its bits are set in this mask.
    """
    if other.bbox != self.bbox or not (_has_plain_bytes(self.array) and _has_plain_bytes(other.array)):
        _originals[0](self, other)
        return
    target, source = _as_bytes(self.array), _as_bytes(other.array)
    for (read, write), table in _tables(self, other).items():
        values = source[..., read]
        if not values.any():
            continue
        if not np.array_equal(table, np.arange(256)):
            values = table[values]
        target[..., write] |= values


_originals: list = []


def _has_plain_bytes(array: np.ndarray) -> bool:
    """Tell whether the bytes of an array lie as little-endian numbers, one pixel after the other."""
    little = array.dtype.newbyteorder("<")
    return bool(array.flags.c_contiguous and np.dtype(array.dtype.str) == little)


def _as_bytes(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint8).reshape(*array.shape[:2], -1)


def _place(mask: Mask, name: str) -> tuple[int, int]:
    """Return which byte of a pixel holds a plane, and which bit of it."""
    bit = mask.schema.bit(name)
    number = (int(bit.mask) & (2 ** (8 * mask.array.dtype.itemsize) - 1)).bit_length() - 1
    return bit.index * mask.array.dtype.itemsize + number // 8, number % 8


def _tables(target: Mask, source: Mask) -> dict[tuple[int, int], np.ndarray]:
    """Return, for each pair of bytes with planes in common, what every value of the one sets in the other."""
    tables: dict[tuple[int, int], np.ndarray] = {}
    values = np.arange(256)
    for name in target.schema.names & source.schema.names:
        (read, bit), (write, new) = _place(source, name), _place(target, name)
        table = tables.setdefault((read, write), np.zeros(256, dtype=np.uint8))
        table |= ((values >> bit & 1) << new).astype(np.uint8)
    return tables
