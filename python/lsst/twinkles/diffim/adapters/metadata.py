"""Metadata of exposures."""

from __future__ import annotations

__all__ = ("copy_metadata", "visit_number")

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsst.images import VisitImage


def copy_metadata(exposure: VisitImage) -> dict[str, int | float | str | bool | None]:
    """Return a copy of the metadata of an exposure that another may own.

    Values of a kind that only FITS headers know (complex numbers, blanks) become text.
    """
    plain = (bool, int, float, str, type(None))
    return {k: v if isinstance(v, plain) else str(v) for k, v in exposure.metadata.items()}


def visit_number(exposure: Any) -> int | None:
    """Return the visit of an exposure, or the number of the exposure itself; `None` if it has neither."""
    info = getattr(exposure, "obs_info", None)
    visit = getattr(info, "visit_id", None)
    return getattr(info, "exposure_id", None) if visit is None else visit
