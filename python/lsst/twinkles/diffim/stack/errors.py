"""Errors of the stack's two tasks: the stack's own classes where it is set up, and otherwise ones like them.

Whoever catches ``lsst.ip.diffim.subtractImages.InsufficientKernelSourcesError`` catches what is raised here.
"""

from __future__ import annotations

__all__ = (
    "MismatchedExposuresError",
    "bad_subtraction",
    "insufficient_kernel_sources",
    "no_dia_sources",
    "stack_class",
)

import importlib
from typing import Any

from ..tasks.errors import ImageDifferenceError


class MismatchedExposuresError(ImageDifferenceError, AssertionError):
    """Science and template exposure do not belong together. An `AssertionError` too, as the stack raises."""


class InsufficientKernelSourcesError(ImageDifferenceError):
    """Too few sources make a matching kernel."""

    def __init__(self, *, nSources: int, nRequired: int) -> None:
        super().__init__(
            f"Only {nSources} sources can serve for the matching kernel, {nRequired} are required "
            "(minKernelSources).",
            nSources=nSources,
            nRequired=nRequired,
        )
        self.nSources, self.nRequired = nSources, nRequired


class BadSubtractionError(ImageDifferenceError):
    """Stars leave too much in the difference."""

    def __init__(self, *, ratio: float, threshold: float) -> None:
        super().__init__(
            f"In the footprints of the kernel sources the difference holds {ratio:.3g} of the science image, "
            f"more than {threshold:g}.",
            ratio=ratio,
            threshold=threshold,
        )
        self.ratio, self.threshold = ratio, threshold


class NoDiaSourcesError(ImageDifferenceError):
    """Nothing was detected."""

    def __init__(self) -> None:
        super().__init__("No sources were detected on the difference (raiseOnNoDiaSources).")


def stack_class(place: str, fallback: Any) -> Any:
    """Return a class of the stack (``"module:name"``) if it is set up, or else another one."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name, fallback)
    except ImportError:
        return fallback


def insufficient_kernel_sources(n_sources: int, n_required: int) -> Exception:
    """Return the error of too few kernel sources."""
    place = "lsst.ip.diffim.subtractImages:InsufficientKernelSourcesError"
    return stack_class(place, InsufficientKernelSourcesError)(nSources=n_sources, nRequired=n_required)


def bad_subtraction(ratio: float, threshold: float) -> Exception:
    """Return the error of a bad subtraction."""
    place = "lsst.ip.diffim.detectAndMeasure:BadSubtractionError"
    return stack_class(place, BadSubtractionError)(ratio=ratio, threshold=threshold)


def no_dia_sources() -> Exception:
    """Return the error of no detection."""
    return stack_class("lsst.ip.diffim.detectAndMeasure:NoDiaSourcesError", NoDiaSourcesError)()
