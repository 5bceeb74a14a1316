"""Metadata of exposures."""

from __future__ import annotations

__all__ = ("copy_metadata",)

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsst.images import VisitImage


def copy_metadata(exposure: VisitImage) -> dict[str, int | float | str | bool | None]:
    """Return a copy of the metadata of an exposure that another may own.

    Values of a kind that only FITS headers know (complex numbers, blanks) become text.
    """
    plain = (bool, int, float, str, type(None))
    return {k: v if isinstance(v, plain) else str(v) for k, v in exposure.metadata.items()}
