"""Choice of the template by PSF and noise: the one with which the difference goes deepest."""

from __future__ import annotations

__all__ = ("PsfSelectTemplateConfig", "PsfSelectTemplateTask")

from collections.abc import Sequence

import numpy as np

from ..algorithms.select.figures import VisitFigures
from .select_template import SelectTemplateConfig, SelectTemplateTask


class PsfSelectTemplateConfig(SelectTemplateConfig):
    """Configuration of `PsfSelectTemplateTask`."""


class PsfSelectTemplateTask(SelectTemplateTask):
    """Put the template first with which the difference is predicted to go deepest for point sources.

    PSFs, noises and flux scales of both exposures count, by the expression of
    `~lsst.twinkles.diffim.algorithms.select.depth.difference_flux_error`.
    """

    ConfigClass = PsfSelectTemplateConfig
    config: PsfSelectTemplateConfig

    def rank(
        self, candidates: Sequence[VisitFigures], eligible: Sequence[int], errors: np.ndarray
    ) -> list[int]:
        """Return the eligible candidates in the order of their predicted errors."""
        return sorted(eligible, key=lambda i: (errors[i], candidates[i].visit))
