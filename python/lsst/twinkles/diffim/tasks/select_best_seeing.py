"""Choice of the template by seeing."""

from __future__ import annotations

__all__ = ("BestSeeingSelectTemplateConfig", "BestSeeingSelectTemplateTask", "sort_by_seeing")

from collections.abc import Sequence

import numpy as np

from ..algorithms.select.figures import VisitFigures
from .select_template import SelectTemplateConfig, SelectTemplateTask


class BestSeeingSelectTemplateConfig(SelectTemplateConfig):
    """Configuration of `BestSeeingSelectTemplateTask`."""

    def setDefaults(self) -> None:
        """Set the limit that the method has in the stack."""
        super().setDefaults()
        self.maxPsfFwhm = 1.5


class BestSeeingSelectTemplateTask(SelectTemplateTask):
    """Put the sharpest exposure first, whatever its noise, as ``BestSeeingSelectVisitsTask`` does."""

    ConfigClass = BestSeeingSelectTemplateConfig
    config: BestSeeingSelectTemplateConfig

    def rank(
        self, candidates: Sequence[VisitFigures], eligible: Sequence[int], errors: np.ndarray
    ) -> list[int]:
        """Return the eligible candidates in the order of their FWHM."""
        return sort_by_seeing(candidates, eligible)


def sort_by_seeing(candidates: Sequence[VisitFigures], places: Sequence[int]) -> list[int]:
    """Return places in a list of candidates in the order of FWHM, then of visit number."""
    return sorted(places, key=lambda i: (candidates[i].fwhm_arcsec, candidates[i].visit))
