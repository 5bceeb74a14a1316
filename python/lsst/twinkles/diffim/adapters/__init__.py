"""Other file formats and image classes."""

from __future__ import annotations

__all__ = ("read_afw_exposure",)

from typing import Any


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for: what it needs takes seconds to import."""
    if name == "read_afw_exposure":
        from .afw.exposure import read_afw_exposure

        return read_afw_exposure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
