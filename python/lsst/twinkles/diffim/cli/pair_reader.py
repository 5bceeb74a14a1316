"""Read the two exposures of a pair, at the same time and, the first pair, before it is needed."""

from __future__ import annotations

__all__ = ("PairReader",)

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Self

from lsst.pipe.base import NoWorkFound

from ..algorithms.threads import get_num_threads
from ..tasks.errors import UnusableExposureError

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef
    from lsst.images import VisitImage

    from .pairs import ExposurePair

type _Half = Callable[[], VisitImage]


class PairReader:
    """Reads exposures of the input repository; a context manager.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the input repository, which others may use meanwhile.
    """

    def __init__(self, butler: Butler) -> None:
        self._resources = ExitStack()
        # A Butler is for one thread.
        self._butlers = [butler]
        self._pool: ThreadPoolExecutor | None = None
        if get_num_threads() > 1:
            self._butlers = [self._resources.enter_context(butler.clone()) for _ in range(2)]
            self._pool = self._resources.enter_context(ThreadPoolExecutor(2))
        self._ahead: tuple[ExposurePair, list[_Half]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()

    def read_ahead(self, pair: ExposurePair) -> None:
        """Begin to read a pair, if there are threads for it."""
        if self._pool is not None:
            self._ahead = pair, self._begin(pair)

    def read(self, pair: ExposurePair) -> tuple[VisitImage, VisitImage]:
        """Return science and template exposure of a pair.

        Raises
        ------
        UnusableExposureError
            If a file cannot be read, for whatever reason.
        """
        ahead, self._ahead = self._ahead, None
        halves = ahead[1] if ahead is not None and ahead[0] is pair else self._begin(pair)
        science, template = halves
        return science(), template()

    def _begin(self, pair: ExposurePair) -> list[_Half]:
        """Return what gives the two exposures of a pair, in reading already where there are threads."""
        halves: list[_Half] = []
        for number, (role, ref) in enumerate({"science": pair.science, "template": pair.template}.items()):
            butler = self._butlers[number % len(self._butlers)]
            if self._pool is None:
                halves.append(partial(_read, butler, ref, role))
            else:
                halves.append(self._pool.submit(_read, butler, ref, role).result)
        return halves


def _read(butler: Butler, ref: DatasetRef, role: str) -> VisitImage:
    try:
        return butler.get(ref)
    except (Exception, NoWorkFound) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UnusableExposureError(
            f"Cannot read the {role} exposure, {_find_file(butler, ref)}: {reason}; ingest it again.",
            role=role,
        ) from error


def _find_file(butler: Butler, ref: DatasetRef) -> str:
    try:
        return butler.getURI(ref).ospath
    except Exception:
        return f"{ref.datasetType.name} {ref.dataId}"
