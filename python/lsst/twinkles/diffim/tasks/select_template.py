"""The choice of templates among the visits of a survey: what all methods have in common."""

from __future__ import annotations

__all__ = ("SelectTemplateConfig", "SelectTemplateTask")

from collections.abc import Sequence
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from lsst.pex.config import ChoiceField, Config, Field, FieldValidationError, ListField, RangeField
from lsst.pipe.base import Struct, Task

from ..algorithms.select.choose import SelectionLimits, find_reasons, predict_errors
from ..algorithms.select.depth import limiting_magnitude
from ..algorithms.select.figures import VisitFigures


class SelectTemplateConfig(Config):
    """What a template must fulfil, whatever the method; a limit that is not set does not count."""

    minPsfFwhm = Field[float](doc="Least FWHM of the PSF, in psfFwhmUnit.", optional=True)
    maxPsfFwhm = Field[float](doc="Largest FWHM of the PSF, in psfFwhmUnit.", optional=True)
    psfFwhmUnit = ChoiceField[str](
        doc="Unit of the limits on the PSF.",
        default="arcsec",
        allowed={"arcsec": "On the sky.", "pixels": "Of the candidate's own grid."},
    )
    minMJD = Field[float](doc="Templates are not from before this MJD (TAI).", optional=True)
    maxMJD = Field[float](doc="Templates are not from after this MJD (TAI).", optional=True)
    minTimeSeparation = RangeField[float](
        doc="Days by which template and science exposure must be apart. What changes more slowly than that "
        "is in both and cancels.",
        default=0.0,
        min=0.0,
    )
    minOverlap = RangeField[float](
        doc="Fraction of the science exposure that the template must cover.", default=0.9, min=0.0, max=1.0
    )
    nVisitsMax = Field[int](
        doc="Most visits to choose, -1 for all that may serve. A difference takes the first, a coadd all.",
        default=12,
    )
    excludeVisits = ListField[int](doc="Visits that are never templates.", default=[])
    requireSameBand = Field[bool](doc="Only templates in the band of the science exposure?", default=True)

    def validate(self) -> None:
        """Check that the limits leave anything."""
        super().validate()
        for low, high in (("minPsfFwhm", "maxPsfFwhm"), ("minMJD", "maxMJD")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                self._refuse(low, f"{low}={least:g} is beyond {high}={most:g}; nothing is between them.")
        if self.nVisitsMax < 1 and self.nVisitsMax != -1:
            self._refuse("nVisitsMax", f"nVisitsMax={self.nVisitsMax} must be at least 1, or -1 for all.")

    def _refuse(self, name: str, message: str) -> None:
        raise FieldValidationError(type(self)._fields[name], self, message)

    def make_limits(self) -> SelectionLimits:
        """Return the limits as algorithms take them."""

        def known(value: float | None, default: float) -> float:
            return default if value is None else float(value)

        return SelectionLimits(
            min_fwhm=known(self.minPsfFwhm, 0.0),
            max_fwhm=known(self.maxPsfFwhm, np.inf),
            fwhm_in_pixels=self.psfFwhmUnit == "pixels",
            min_mjd=known(self.minMJD, -np.inf),
            max_mjd=known(self.maxMJD, np.inf),
            min_separation=self.minTimeSeparation,
            min_overlap=self.minOverlap,
            same_band=self.requireSameBand,
            excluded=frozenset(self.excludeVisits),
        )


class SelectTemplateTask(Task):
    """Choose templates for a science exposure, or for a coadd; the base of all methods.

    A method says in `rank` in which order the candidates come that may serve.
    """

    ConfigClass = SelectTemplateConfig
    _DefaultName = "selectTemplate"
    config: SelectTemplateConfig

    def run(self, science: VisitFigures | None, candidates: Sequence[VisitFigures]) -> Struct:
        """Choose.

        Parameters
        ----------
        science : `~lsst.twinkles.diffim.algorithms.select.figures.VisitFigures` or `None`
            Exposure that the template is to be subtracted from; `None` to choose the visits of a coadd.
        candidates : sequence of `~lsst.twinkles.diffim.algorithms.select.figures.VisitFigures`
            Exposures to choose from. The science visit itself is never chosen.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            - ``chosen`` (`list` [`int`]): places in ``candidates``, best first; empty if none may serve.
            - ``scores`` (`astropy.table.Table`): a row for each candidate, in their order: ``visit``,
              ``detector``, ``band``, ``mjd``, ``psfFwhm`` (arcsec), ``skyNoise`` (nJy, standard deviation of
              a pixel), ``predictedDepth`` (AB magnitude of a point source at 5 sigma in the difference, of
              the exposure itself if there is no science exposure), ``rank`` (from 0; -1 if it may not
              serve), ``chosen`` and ``reason`` (why it may not).
        """
        reasons = find_reasons(candidates, science, self.config.make_limits())
        errors = predict_errors(candidates, science)
        eligible = [i for i, reason in enumerate(reasons) if not reason]
        order = self.rank(candidates, eligible, errors)
        for i in set(eligible) - set(order):
            reasons[i] = "not among those that the method asks for"
        most = self.config.nVisitsMax
        chosen = order if most < 0 else order[:most]
        calibrated = science.is_calibrated if science is not None else _all_calibrated(candidates)
        depths = limiting_magnitude(errors) if calibrated else np.full(len(candidates), np.nan)
        scores = _make_table(candidates, depths, order, chosen, reasons)
        self.log.debug("%d of %d candidates may serve as template.", len(order), len(candidates))
        return Struct(chosen=chosen, scores=scores)

    def rank(
        self, candidates: Sequence[VisitFigures], eligible: Sequence[int], errors: np.ndarray
    ) -> list[int]:
        """Return those of the eligible candidates that the method wants, best first.

        Parameters
        ----------
        candidates : sequence of `~lsst.twinkles.diffim.algorithms.select.figures.VisitFigures`
            All of them.
        eligible : sequence of `int`
            Places of those that fulfil the limits, in order.
        errors : `numpy.ndarray`, ``(N,)``
            Predicted flux errors of point sources in the difference with each.
        """
        raise NotImplementedError(f"{type(self).__name__} has to say in which order templates come.")


def _all_calibrated(candidates: Sequence[VisitFigures]) -> bool:
    return all(candidate.is_calibrated for candidate in candidates)


def _make_table(
    candidates: Sequence[VisitFigures],
    depths: np.ndarray,
    order: Sequence[int],
    chosen: Sequence[int],
    reasons: Sequence[str],
) -> Table:
    """Return the scores of all candidates."""
    rank = np.full(len(candidates), -1, dtype=np.int64)
    rank[list(order)] = np.arange(len(order))
    columns: dict[str, Any] = {
        "visit": np.array([c.visit for c in candidates], dtype=np.int64),
        "detector": np.array([c.detector for c in candidates], dtype=np.int64),
        "band": np.array([c.band for c in candidates], dtype=str),
        "mjd": np.array([c.mjd for c in candidates], dtype=float),
        "psfFwhm": np.array([c.fwhm_arcsec for c in candidates], dtype=float),
        "skyNoise": np.array([np.sqrt(c.variance) * c.scale for c in candidates], dtype=float),
        "predictedDepth": np.asarray(depths, dtype=float),
        "rank": rank,
        "chosen": np.isin(np.arange(len(candidates)), list(chosen)),
        "reason": np.array(list(reasons), dtype=str),
    }
    units = {"mjd": u.day, "psfFwhm": u.arcsec, "skyNoise": u.nJy, "predictedDepth": u.ABmag}
    table = Table(columns)
    for name, unit in units.items():
        table[name].unit = unit
    return table
