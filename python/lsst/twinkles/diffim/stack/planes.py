"""What becomes of mask planes in a subtraction, by the stack's rules."""

from __future__ import annotations

__all__ = ("clear_planes", "copy_plane", "prepare_science_mask", "prepare_template_mask")

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .exposures import plane_pixels

_SUFFIX = "_TEMPLATE"


def clear_planes(mask: Any, names: Iterable[str]) -> None:
    """Clear planes of an `lsst.afw.image.Mask`, as far as it has them."""
    known = mask.getMaskPlaneDict()
    bits = mask.getPlaneBitMask([name for name in names if name in known])
    mask.array &= np.asarray(~bits, dtype=mask.array.dtype)


def copy_plane(mask: Any, old: str, new: str) -> None:
    """Set one plane of an `lsst.afw.image.Mask` wherever another one is set."""
    pixels = plane_pixels(mask, old)
    mask.addMaskPlane(new)
    mask.array[pixels] |= np.asarray(mask.getPlaneBitMask(new), dtype=mask.array.dtype)


def prepare_science_mask(mask: Any) -> None:
    """Clear what was detected before, and let injected sources have one name (``FAKE`` is an older one)."""
    clear_planes(mask, ("DETECTED", "DETECTED_NEGATIVE"))
    if "FAKE" in mask.getMaskPlaneDict():
        copy_plane(mask, "FAKE", "INJECTED")


def prepare_template_mask(mask: Any, *, preserve: Sequence[str], rename: Sequence[str]) -> tuple[str, ...]:
    """Reduce the mask of a template to what a difference takes over from it.

    Parameters
    ----------
    mask : `lsst.afw.image.Mask`
        Mask; changed.
    preserve : sequence of `str`
        Planes that stay.
    rename : sequence of `str`
        Planes that stay with ``_TEMPLATE`` behind their names.

    Returns
    -------
    planes : `tuple` [`str`, ...]
        Planes that are left.
    """
    known = list(mask.getMaskPlaneDict())
    renamed = {name: name + _SUFFIX for name in rename if name in known}
    if "FAKE" in known:
        renamed = {k: v for k, v in renamed.items() if k != "INJECTED"} | {"FAKE": "INJECTED" + _SUFFIX}
    before = {new: plane_pixels(mask, old) for old, new in renamed.items()}
    kept = [name for name in preserve if name in known]
    clear_planes(mask, [name for name in known if name not in kept])
    for new, pixels in before.items():
        mask.addMaskPlane(new)
        mask.array[pixels] |= np.asarray(mask.getPlaneBitMask(new), dtype=mask.array.dtype)
    return (*kept, *before)
