"""Choice of templates from a range of quantiles of the seeing."""

from __future__ import annotations

__all__ = ("BestSeeingQuantileSelectTemplateConfig", "BestSeeingQuantileSelectTemplateTask")

from collections.abc import Sequence

import numpy as np

from lsst.pex.config import RangeField

from ..algorithms.select.choose import quantile_ranks
from ..algorithms.select.figures import VisitFigures
from .select_best_seeing import sort_by_seeing
from .select_template import SelectTemplateConfig, SelectTemplateTask


class BestSeeingQuantileSelectTemplateConfig(SelectTemplateConfig):
    """Configuration of `BestSeeingQuantileSelectTemplateTask`."""

    qMin = RangeField[float](doc="Lower quantile of the seeing.", default=0.0, min=0.0, max=1.0)
    qMax = RangeField[float](doc="Upper quantile of the seeing.", default=0.33, min=0.0, max=1.0)
    nVisitsMin = RangeField[int](doc="Visits to choose at least, if there are as many.", default=6, min=1)

    def setDefaults(self) -> None:
        """Set the number of visits, which the quantiles decide."""
        super().setDefaults()
        self.nVisitsMax = -1

    def validate(self) -> None:
        """Check the order of the quantiles."""
        super().validate()
        if self.qMin > self.qMax:
            self._refuse("qMin", f"qMin={self.qMin:g} must not exceed qMax={self.qMax:g}.")


class BestSeeingQuantileSelectTemplateTask(SelectTemplateTask):
    """Take exposures between two quantiles of the seeing, as ``BestSeeingQuantileSelectVisitsTask`` does."""

    ConfigClass = BestSeeingQuantileSelectTemplateConfig
    config: BestSeeingQuantileSelectTemplateConfig

    def rank(
        self, candidates: Sequence[VisitFigures], eligible: Sequence[int], errors: np.ndarray
    ) -> list[int]:
        """Return the eligible candidates between the quantiles in the order of their FWHM."""
        order = sort_by_seeing(candidates, eligible)
        config = self.config
        start, stop = quantile_ranks(
            len(order), q_min=config.qMin, q_max=config.qMax, n_min=config.nVisitsMin
        )
        return order[start:stop]
