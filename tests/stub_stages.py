"""Stages that do next to nothing, for tests of what is around them. Also to be had in worker processes."""

import os
import signal
import time
from pathlib import Path

import astropy.units as u
import numpy as np
from astropy.table import Table
from lsst.images import DifferenceImage, Image, Mask, VisitImage
from lsst.pex.config import Config, Field, ListField
from lsst.pipe.base import NoWorkFound, Struct, Task

from lsst.twinkles.diffim.adapters.masks import difference_mask_schema
from lsst.twinkles.diffim.tasks.errors import BadSubtractionError, InsufficientKernelSourcesError
from lsst.twinkles.diffim.tasks.subtract import AlardLuptonSubtractConfig

THREADS = ("TWINKLES_DIFFIM_NUM_THREADS", "OMP_NUM_THREADS")


class StubSubtractConfig(AlardLuptonSubtractConfig):
    failVisits = ListField[int](doc="Visits on which an algorithm fails.", default=[])
    bugVisits = ListField[int](doc="Visits on which there is a bug.", default=[])
    noWorkVisits = ListField[int](doc="Visits for which there is nothing to do.", default=[])
    dieVisits = ListField[int](doc="Visits on which the process is killed.", default=[])
    dieOnce = Field[str](doc="File made by the process that is killed; others live.", optional=True)
    signalVisits = ListField[int](doc="Visits on which somebody loses patience.", default=[])
    signal = Field[int](doc="Signal that is sent then.", default=int(signal.SIGINT))
    sleepVisits = ListField[int](doc="Visits that take long.", default=[])
    sleepSeconds = Field[float](doc="How long.", default=60.0)


class StubSubtractTask(Task):
    """Science minus template, as they are."""

    ConfigClass = StubSubtractConfig
    _DefaultName = "subtract"

    def run(self, template, science, sources=None):
        visit = science.obs_info.visit_id
        self.metadata["processId"] = os.getpid()
        self.metadata["threads"] = [os.environ.get(name, "") for name in THREADS]
        self.log.debug("At work on visit %d.", visit)
        if visit in self.config.failVisits:
            raise InsufficientKernelSourcesError(2, 5)
        if visit in self.config.bugVisits:
            raise ZeroDivisionError("a bug")
        if visit in self.config.noWorkVisits:
            raise NoWorkFound("There is nothing here.")
        if visit in self.config.dieVisits and _is_first(self.config.dieOnce):
            os.kill(os.getpid(), signal.SIGKILL)
        if visit in self.config.signalVisits:
            signal.raise_signal(self.config.signal)
        if visit in self.config.sleepVisits:
            time.sleep(self.config.sleepSeconds)
        difference = DifferenceImage(
            Image(science.image.array - template.image.array, bbox=science.bbox, unit=science.unit),
            mask=Mask(schema=difference_mask_schema(), bbox=science.bbox),
            variance=Image(
                science.variance.array + template.variance.array, bbox=science.bbox, unit=science.unit**2
            ),
            sky_projection=science.sky_projection,
            obs_info=science.obs_info,
            photometric_scaling=science.photometric_scaling,
            psf=science.psf,
            detector=science.detector,
            band=science.band,
        )
        matched = VisitImage(
            template.image,
            mask=template.mask,
            variance=template.variance,
            sky_projection=science.sky_projection,
            obs_info=template.obs_info,
            photometric_scaling=template.photometric_scaling,
            psf=science.psf,
            detector=science.detector,
            band=template.band,
        )
        return Struct(
            difference=difference,
            matchedTemplate=matched,
            backgroundModel=None,
            psfMatchingKernel=None,
            kernelSources=None,
            convolvedTemplate=True,
        )


class StubDetectionTask(Task):
    """Single pixels more than 20 sigma away from nothing."""

    ConfigClass = Config
    _DefaultName = "detection"

    def run(self, difference):
        significance = difference.image.array / np.sqrt(difference.variance.array)
        positive, negative = significance > 20, significance < -20
        y, x = np.nonzero(positive | negative)
        return Struct(sources=Table({"x": x, "y": y}), positive=positive, negative=negative, score=None)


class StubMeasurementTask(Task):
    """Values of these pixels."""

    ConfigClass = Config
    _DefaultName = "measurement"

    def run(self, difference, science, matchedTemplate, sources, idBase):
        table = Table(
            {
                "diaSourceId": idBase + np.arange(len(sources)),
                "x": sources["x"] * u.pixel,
                "y": sources["y"] * u.pixel,
                "psfFlux": difference.image.array[sources["y"], sources["x"]] * u.nJy,
                "isNegative": difference.image.array[sources["y"], sources["x"]] < 0,
            }
        )
        return Struct(diaSources=table)


def _is_first(path):
    """Whether a file was not there; it is now."""
    if path is None:
        return True
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class StubAssessConfig(Config):
    badVisits = ListField[int](doc="Visits whose difference is bad.", default=[])


class StubAssessTask(Task):
    """Differences are good, but for those of some visits."""

    ConfigClass = StubAssessConfig
    _DefaultName = "assess"

    def run(self, difference, science, **kwargs):
        return Struct(metrics={"visit": science.obs_info.visit_id, "verdict": "good", "reasons": []})

    def find_error(self, metrics):
        if metrics["visit"] not in self.config.badVisits:
            return None
        return BadSubtractionError("It leaves 40 percent of the stars.", ratio=0.4)
