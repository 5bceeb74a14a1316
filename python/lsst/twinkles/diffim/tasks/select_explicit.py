"""Templates named by people."""

from __future__ import annotations

__all__ = ("ExplicitSelectTemplateConfig", "ExplicitSelectTemplateTask")

from collections.abc import Sequence

import numpy as np

from lsst.pex.config import ListField

from ..algorithms.select.figures import VisitFigures
from .select_template import SelectTemplateConfig, SelectTemplateTask


class ExplicitSelectTemplateConfig(SelectTemplateConfig):
    """Configuration of `ExplicitSelectTemplateTask`."""

    visits = ListField[int](
        doc="Visits to take, the preferred one first; if empty, the candidates as they come.", default=[]
    )

    def setDefaults(self) -> None:
        """Trust those who name a template."""
        super().setDefaults()
        self.requireSameBand = False
        self.minOverlap = 0.0


class ExplicitSelectTemplateTask(SelectTemplateTask):
    """Take the templates that are named, in that order."""

    ConfigClass = ExplicitSelectTemplateConfig
    config: ExplicitSelectTemplateConfig

    def rank(
        self, candidates: Sequence[VisitFigures], eligible: Sequence[int], errors: np.ndarray
    ) -> list[int]:
        """Return the eligible candidates in the order in which they are named."""
        named = list(self.config.visits)
        if not named:
            return list(eligible)
        return sorted(
            (i for i in eligible if candidates[i].visit in named),
            key=lambda i: named.index(candidates[i].visit),
        )
