"""Names of mask planes, old and new, and the pixels they mark."""

from __future__ import annotations

__all__ = (
    "bad_pixels",
    "difference_mask_schema",
    "known_plane_names",
    "plane_bits",
    "planes_in_use",
    "resolve_plane_name",
    "set_plane",
    "stack_plane_name",
    "visit_mask_schema",
)

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lsst.images import Mask, MaskSchema

# Names seen on coadds and older differences that no map of lsst.images holds.
_MORE_LEGACY = {"FAKE": "INJECTED"}
# Integers as large as the bytes of a pixel of a mask.
_ROWS = 16
_WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@cache
def _legacy_names() -> dict[str, str]:
    """Return the map from afw plane names to those of `lsst.images`."""
    from lsst.images import (
        get_legacy_difference_image_mask_planes,
        get_legacy_optional_mask_planes,
        get_legacy_template_mask_planes,
    )

    maps = (
        get_legacy_template_mask_planes(),
        get_legacy_optional_mask_planes(),
        get_legacy_difference_image_mask_planes(),
    )
    return _MORE_LEGACY | {old: plane.name for planes in maps for old, plane in planes.items()}


def known_plane_names() -> frozenset[str]:
    """Return all names that `resolve_plane_name` knows without a schema, old and new."""
    return frozenset(_legacy_names()) | frozenset(_legacy_names().values())


def resolve_plane_name(name: str, schema: MaskSchema | None = None) -> str:
    """Return the name that a mask plane has in `lsst.images`.

    Parameters
    ----------
    name : `str`
        New name (``SATURATED``) or the one of `lsst.afw` (``SAT``, ``EDGE``, ``INTRP``, ``CR``,
        ``UNMASKEDNAN``).
    schema : `lsst.images.MaskSchema`, optional
        If given, a plane of this schema is preferred, so that a schema made with the old names works too.

    Returns
    -------
    name : `str`
        The resolved name, which need not be in ``schema``.

    Raises
    ------
    ValueError
        If the name is neither in ``schema`` nor one that is known.
    """
    if schema is not None and name in schema.names:
        return name
    legacy = _legacy_names()
    if name in legacy:
        return legacy[name]
    if name in legacy.values():
        return name
    known = sorted(set(legacy) | set(legacy.values()) | set(schema.names if schema is not None else ()))
    raise ValueError(f"Mask plane {name!r} is not known; the planes are {', '.join(known)}.")


def stack_plane_name(name: str) -> str:
    """Return the name that a mask plane of `lsst.images` has in `lsst.afw`, the same if it has none there."""
    # Of several old names of a plane the map has the one that the stack writes today last.
    return {new: old for old, new in _legacy_names().items() if old not in _MORE_LEGACY}.get(name, name)


def bad_pixels(mask: Mask, planes: Iterable[str]) -> np.ndarray:
    """Return where any of some mask planes is set.

    Parameters
    ----------
    mask : `lsst.images.Mask`
        Mask of shape ``(Ny, Nx)``.
    planes : iterable of `str`
        Plane names, old or new. Known planes that this mask does not have count as set nowhere.

    Returns
    -------
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        `True` where a plane is set.
    """
    bitmask = plane_bits(mask, planes)
    word = _WORDS.get(mask.array.dtype.itemsize * mask.array.shape[-1])
    if word is not None and mask.array.flags.c_contiguous:
        # All bytes of a pixel at once: they lie side by side. Some rows at a time, which stay in the cache.
        bits = np.ascontiguousarray(bitmask, dtype=mask.array.dtype).view(word)[0]
        words, bad = mask.array.view(word)[..., 0], np.empty(mask.array.shape[:2], dtype=bool)
        for y in range(0, len(bad), _ROWS):
            np.not_equal(words[y : y + _ROWS] & bits, 0, out=bad[y : y + _ROWS])
        return bad
    bad = np.zeros(mask.array.shape[:2], dtype=bool)
    for index, bits in enumerate(bitmask):
        if bits:
            bad |= (mask.array[..., index] & bits) != 0
    return bad


def plane_bits(mask: Mask, planes: Iterable[str]) -> np.ndarray:
    """Return the bits of some planes in each byte of the last axis of a mask's array, ``(B,)``.

    Parameters
    ----------
    mask : `lsst.images.Mask`
        Mask.
    planes : iterable of `str`
        Plane names, old or new; known planes that this mask does not have have no bit.
    """
    resolved = {resolve_plane_name(name, mask.schema) for name in planes}
    return np.asarray(mask.schema.bitmask(*sorted(resolved & set(mask.schema.names))))


def planes_in_use(mask: Mask) -> list[str]:
    """Return the planes of a mask that are set somewhere (`list` [`str`])."""
    # Row by row first: along the short last axis numpy is slow.
    array = mask.array
    used = np.bitwise_or.reduce(array.reshape(len(array), -1), axis=0).reshape(-1, array.shape[-1])
    used = np.bitwise_or.reduce(used, axis=0)
    bits = {name: mask.schema.bit(name) for name in mask.schema.names}
    return [name for name, bit in bits.items() if used[bit.index] & bit.mask]


def set_plane(mask: Mask, plane: str, pixels: np.ndarray) -> None:
    """Set a plane of a mask where ``pixels`` (``(Ny, Nx)``, bool) are true, in place.

    The same as ``mask.set``, without a list of the pixels, which is slow where there are many.
    """
    bit = mask.schema.bit(plane)
    mask.array[..., bit.index] |= pixels * mask.array.dtype.type(bit.mask)


def visit_mask_schema() -> MaskSchema:
    """Return the mask planes of a calibrated exposure (`lsst.images.MaskSchema`)."""
    from lsst.images import MaskSchema, get_legacy_visit_image_mask_planes

    return MaskSchema(get_legacy_visit_image_mask_planes().values())


def difference_mask_schema() -> MaskSchema:
    """Return the mask planes of a difference image (`lsst.images.MaskSchema`).

    Those of an exposure, ``DETECTED_NEGATIVE``, ``SAT_TEMPLATE``, ``HIGH_VARIANCE``, ``STREAK``, and
    ``SENSOR_EDGE`` and ``INEXACT_PSF``, which a template may bring along.
    """
    from lsst.images import (
        MaskSchema,
        get_legacy_difference_image_mask_planes,
        get_legacy_template_mask_planes,
    )

    planes = list(get_legacy_difference_image_mask_planes().values())
    names = {plane.name for plane in planes}
    template = get_legacy_template_mask_planes().values()
    return MaskSchema([*planes, *(p for p in template if p.name not in names and p.name != "REJECTED")])
