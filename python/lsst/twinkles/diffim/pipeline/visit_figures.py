"""Figures of many exposures of a repository, read without their pixels and kept in a file."""

from __future__ import annotations

__all__ = ("FiguresReader", "load_figures", "read_figures", "save_figures")

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from lsst.daf.butler import Butler, DatasetRef
from lsst.images import Box

from ..algorithms.select.depth import PSF_POWER_SIDE
from ..algorithms.select.figures import VisitFigures
from ..tasks.exposure_figures import measure_figures

_LOG = logging.getLogger(__name__)

_STRIP_ROWS = 64
_VERSION = 1
_NUMBERS = ("mjd", "fwhm", "pixel_scale", "variance", "scale")


def read_figures(get: Callable[..., Any], ref: DatasetRef) -> VisitFigures:
    """Measure the figures of a stored exposure from a strip across its middle.

    Parameters
    ----------
    get : callable
        ``get(component=..., parameters=...)`` reads the dataset, as a deferred handle does.
    ref : `lsst.daf.butler.DatasetRef`
        Identity of the dataset.

    Returns
    -------
    figures : `~lsst.twinkles.diffim.algorithms.select.figures.VisitFigures`
        The noise is that of 64 rows in the middle; PSF and WCS are those of the whole exposure.
    """
    bbox = get(component="bbox")
    first = bbox.y.start + max(0, (bbox.y.size - _STRIP_ROWS) // 2)
    last = min(bbox.y.stop, first + _STRIP_ROWS)
    strip = get(parameters={"bbox": Box.factory[first:last, bbox.x.start : bbox.x.stop]})
    return measure_figures(
        strip, bbox=bbox, visit=int(ref.dataId["visit"]), detector=int(ref.dataId["detector"])
    )


class FiguresReader:
    """Reads figures of the exposures of a repository, each only once.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the repository, which is only read.
    known : mapping from `uuid.UUID` to `VisitFigures`, optional
        Figures that are there already, by dataset id; see `load_figures`.
    """

    def __init__(self, butler: Butler, known: Mapping[UUID, VisitFigures] | None = None) -> None:
        self._butler = butler
        self.known: dict[UUID, VisitFigures] = dict(known or {})
        self.n_read = 0

    def __call__(self, ref: DatasetRef) -> VisitFigures:
        """Return the figures of an exposure.

        Raises
        ------
        Exception
            Whatever reading the file raises.
        """
        figures = self.known.get(ref.id)
        if figures is None:
            figures = read_figures(self._make_getter(ref), ref)
            self.known[ref.id] = figures
            self.n_read += 1
        return figures

    def read_all(self, refs: Iterable[DatasetRef]) -> dict[UUID, VisitFigures]:
        """Return the figures of those exposures that can be read; the others are logged, and left out."""
        found = {}
        for ref in refs:
            try:
                found[ref.id] = self(ref)
            except Exception as error:  # each storage has exceptions of its own
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                _LOG.warning("Visit %s is no candidate, it cannot be read: %s", ref.dataId["visit"], reason)
        return found

    def _make_getter(self, ref: DatasetRef) -> Callable[..., Any]:
        def get(component: str | None = None, parameters: dict[str, Any] | None = None) -> Any:
            return self._butler.get(
                ref if component is None else ref.makeComponentRef(component), parameters=parameters
            )

        return get


def save_figures(path: Path, figures: Mapping[UUID, VisitFigures]) -> None:
    """Write figures to a file, wholly or not at all.

    Parameters
    ----------
    path : `pathlib.Path`
        File; replaced.
    figures : mapping from `uuid.UUID` to `VisitFigures`
        Figures by dataset id, which never stands for other pixels.
    """
    items = list(figures.items())
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as stream:
            np.savez(
                stream,
                version=_VERSION,
                id=np.array([key.hex for key, _ in items], dtype="S32"),
                place=np.array([(f.visit, f.detector) for _, f in items], dtype=np.int64).reshape(-1, 2),
                band=np.array([f.band for _, f in items], dtype="U32"),
                numbers=np.array([[getattr(f, n) for n in _NUMBERS] for _, f in items], dtype=float).reshape(
                    -1, len(_NUMBERS)
                ),
                corners=np.array([f.corners for _, f in items], dtype=float).reshape(-1, 4, 3),
                power=np.array([f.power for _, f in items], dtype=np.float32).reshape(
                    -1, PSF_POWER_SIDE, PSF_POWER_SIDE // 2 + 1
                ),
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def load_figures(path: Path) -> dict[UUID, VisitFigures]:
    """Return the figures in a file; none if there is no file of this version, which costs time only."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if int(data["version"]) != _VERSION:
                return {}
            content = {name: data[name] for name in ("id", "place", "band", "numbers", "corners", "power")}
    except FileNotFoundError:
        return {}
    except Exception as error:  # a damaged file may raise anything
        _LOG.warning("Cannot read %s (%s); the exposures are looked at again.", path, error)
        return {}
    return {
        UUID(key.decode()): VisitFigures(
            visit=int(place[0]),
            detector=int(place[1]),
            band=str(band),
            corners=corners,
            power=power,
            **dict(zip(_NUMBERS, map(float, numbers), strict=True)),
        )
        for key, place, band, numbers, corners, power in zip(*content.values(), strict=True)
    }
