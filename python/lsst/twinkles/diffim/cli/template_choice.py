"""Choice of a template for each science exposure, for the command line."""

from __future__ import annotations

__all__ = ("FIGURES_FILE", "TemplateChooser")

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lsst.daf.butler import Butler, DatasetRef

from ..pipeline.visit_figures import FiguresReader, load_figures, save_figures
from .logs import COMMAND_LOGGER

if TYPE_CHECKING:
    from astropy.table import Table

    from ..tasks.image_difference import ImageDifferenceConfig

_LOG = logging.getLogger(COMMAND_LOGGER)

FIGURES_FILE = "_visitFigures.npz"
"""File in an output repository that keeps what was read of the candidates."""


class TemplateChooser:
    """Chooses templates among the exposures of a repository, with the configured method.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the input repository.
    config : `ImageDifferenceConfig`
        Its ``selectTemplate`` names the method.
    output : `pathlib.Path` or `None`
        Output repository, which need not be there; figures kept in it are used.
    """

    def __init__(self, butler: Butler, config: ImageDifferenceConfig, output: Path | None) -> None:
        self._task = config.selectTemplate.apply(name="selectTemplate")
        self.method: str = config.selectTemplate.name
        self._path = None if output is None else output / FIGURES_FILE
        self._reader = FiguresReader(butler, {} if self._path is None else load_figures(self._path))

    @property
    def finds_candidates(self) -> bool:
        """Whether the method does without candidates that people name (`bool`)."""
        return self.method != "explicit" or bool(self._task.config.visits)

    def choose(
        self, science: DatasetRef, candidates: Sequence[DatasetRef], *, named: bool
    ) -> tuple[DatasetRef | None, Table | None, str]:
        """Choose the template of an exposure.

        Parameters
        ----------
        science : `lsst.daf.butler.DatasetRef`
            Science exposure.
        candidates : sequence of `lsst.daf.butler.DatasetRef`
            Exposures of its detector.
        named : `bool`
            People named the candidates: those of other bands are listed too.

        Returns
        -------
        template : `lsst.daf.butler.DatasetRef` or `None`
            The best; `None` if none may serve.
        scores : `astropy.table.Table` or `None`
            See `~lsst.twinkles.diffim.tasks.select_template.SelectTemplateTask.run`.
        reason : `str`
            Why there is none.
        """
        if self._task.config.requireSameBand and not named:
            candidates = [ref for ref in candidates if ref.dataId["band"] == science.dataId["band"]]
        figures = self._reader.read_all([science, *candidates])
        if science.id not in figures:
            return None, None, "It cannot be read, so that no template can be chosen."
        readable = [ref for ref in candidates if ref.id in figures]
        result = self._task.run(
            # Bands of the registry, by which exposures are found, rather than what files say.
            replace(figures[science.id], band=str(science.dataId["band"])),
            [replace(figures[ref.id], band=str(ref.dataId["band"])) for ref in readable],
        )
        if not result.chosen:
            return None, result.scores, _explain(science, result.scores, self.method)
        return readable[result.chosen[0]], result.scores, ""

    def save(self) -> None:
        """Keep what was read in the output repository, if there is one."""
        if self._path is None or not self._reader.n_read:
            return
        try:
            save_figures(self._path, load_figures(self._path) | self._reader.known)
        except OSError as error:
            _LOG.warning("Cannot keep the figures of the candidates in %s: %s", self._path, error)


def _explain(science: DatasetRef, scores: Table, method: str) -> str:
    """Say why no candidate may serve."""
    others = scores[scores["visit"] != science.dataId["visit"]]
    if len(others) == 0:
        where = f"band {science.dataId['band']}, detector {science.dataId['detector']}"
        return f"There is no other visit in {where} that could be its template; give --templateId visit=N."
    reasons = Counter(str(reason) for reason in others["reason"])
    text = "; ".join(f"{reason} ({number})" for reason, number in reasons.most_common(4))
    return (
        f"None of {len(others)} visits may be its template (selectTemplate.name={method}): {text}. "
        'Widen the limits of selectTemplate, or give one --templateId; "--show data" lists all.'
    )
