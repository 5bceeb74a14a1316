"""How likely detections are to be real."""

from __future__ import annotations

__all__ = ("ScoreReliabilityConfig", "ScoreReliabilityTask", "read_model")

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Column, Table

from lsst.pex.config import Config, Field, ListField
from lsst.pipe.base import Struct, Task
from lsst.utils.timer import timeMethod

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_fwhm, sample_psf
from ..algorithms.measure.reliability import ReliabilityModel, measure_features

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage

_PACKAGED = "reliability.json"


class ScoreReliabilityConfig(Config):
    """Configuration of `ScoreReliabilityTask`."""

    modelFile = Field[str](
        doc="JSON file of the model, as bench/reliability.py writes it; by default the one of the package.",
        default=None,
        optional=True,
    )
    badMaskPlanes = ListField[str](
        doc="Pixels that are not used.", default=["NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"]
    )


class ScoreReliabilityTask(Task):
    """Give every source of a difference a reliability between 0 and 1.

    Notes
    -----
    A logistic regression on numbers measured from the pixels around a source, trained on simulated pairs of
    exposures with artefacts (``bench/reliability.py``). It is the probability to be real for the mixture of
    real and false detections of the training, of which there are as many of either kind.
    """

    ConfigClass = ScoreReliabilityConfig
    _DefaultName = "reliability"
    config: ScoreReliabilityConfig

    def __init__(self, config: Config | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.model = read_model(self.config.modelFile)

    @timeMethod
    def run(
        self,
        difference: DifferenceImage,
        science: VisitImage,
        matchedTemplate: VisitImage,
        diaSources: Table,
    ) -> Struct:
        """Score sources.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference, finished and with its masks.
        science, matchedTemplate : `lsst.images.VisitImage`
            What was subtracted from what.
        diaSources : `astropy.table.Table`
            Catalogue with ``x``, ``y`` and ``isNegative``; not modified.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``diaSources``: the catalogue with ``reliability`` and ``reliabilityVersion``; ``features``
            (`numpy.ndarray`, ``(N, F)``).
        """
        features = self.measure(difference, science, matchedTemplate, diaSources)
        table = diaSources.copy(copy_data=False)
        table["reliability"] = Column(
            self.model.score(features).astype(np.float32),
            description="Probability to be real rather than an artefact, 0 to 1",
        )
        table["reliabilityVersion"] = Column(
            np.full(len(table), self.model.version, dtype=f"U{max(1, len(self.model.version))}"),
            description="Model that gave the reliability",
        )
        return Struct(diaSources=table, features=features)

    def measure(
        self, difference: DifferenceImage, science: VisitImage, matched: VisitImage, sources: Table
    ) -> np.ndarray:
        """Return the features of sources, ``(N, F)``."""
        psf = sample_psf(difference.psf, difference.bbox, grid=4)
        variance = difference.variance.array
        bad = bad_pixels(difference.mask, self.config.badMaskPlanes)
        step = max(1, variance.size // 200_000) | 1
        blank = ~bad.ravel()[::step] & (variance.ravel()[::step] > 0)
        planes = {
            "bad": bad,
            "saturated": bad_pixels(difference.mask, ["SAT", "SAT_TEMPLATE"]),
            "streak": bad_pixels(difference.mask, ["STREAK"]),
        }
        box = difference.bbox
        return measure_features(
            difference.image.array,
            variance,
            science.image.array,
            matched.image.array,
            planes,
            psf,
            x=np.asarray(sources["x"], float) - box.x.start,
            y=np.asarray(sources["y"], float) - box.y.start,
            negative=np.asarray(sources["isNegative"], bool),
            fwhm=psf_fwhm(psf),
            sky_variance=float(np.median(variance.ravel()[::step][blank])) if blank.any() else 1.0,
        )


def read_model(path: str | Path | None = None) -> ReliabilityModel:
    """Read a model.

    Parameters
    ----------
    path : `str` or `pathlib.Path`, optional
        JSON file; the one of the package by default.

    Returns
    -------
    model : `~lsst.twinkles.diffim.algorithms.measure.reliability.ReliabilityModel`
        The model.

    Raises
    ------
    ValueError
        If the file holds no model, or one for other features.
    """
    source = files("lsst.twinkles.diffim").joinpath("data", _PACKAGED) if path is None else Path(path)
    try:
        content = json.loads(source.read_text())
        return ReliabilityModel(
            version=str(content["version"]),
            features=tuple(content["features"]),
            mean=np.array(content["mean"], float),
            scale=np.array(content["scale"], float),
            intercept=float(content["intercept"]),
            weights=np.array(content["weights"], float),
        )
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(f"modelFile {source} holds no reliability model ({error!r}).") from error
