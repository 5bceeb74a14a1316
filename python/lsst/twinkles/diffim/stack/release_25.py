"""`TwinklesImageDifferenceTask` derived from the stack's own ``ImageDifferenceTask`` (releases up to v25).

    from lsst.twinkles.diffim.stack.release_25 import TwinklesImageDifferenceTask

It keeps the stack's connections, templates, detection and measurement; the subtraction is this package's.
"""

from __future__ import annotations

__all__ = ("make_twinkles_classes",)

from functools import cache
from typing import Any

from lsst.pex.config import ConfigurableField
from lsst.pipe.base import Struct

from .errors import stack_class
from .subtract_images import AlardLuptonSubtractTask

_PLACE = "lsst.pipe.tasks.imageDifference"


class SubtractExposures:
    """Our subtraction with the methods of the stack's ``ImagePsfMatchTask`` that its callers use.

    Parameters
    ----------
    original : `lsst.ip.diffim.ImagePsfMatchTask`
        The stack's task; it warps, and finds sources if it is asked to.
    subtract : `~lsst.twinkles.diffim.stack.subtract_images.AlardLuptonSubtractTask`
        The task that subtracts.
    """

    def __init__(self, original: Any, subtract: AlardLuptonSubtractTask) -> None:
        self.original, self.task = original, subtract

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def subtractExposures(
        self,
        templateExposure: Any,
        scienceExposure: Any,
        templateFwhmPix: float | None = None,
        scienceFwhmPix: float | None = None,
        candidateList: Any = None,
        doWarping: bool = True,
        convolveTemplate: bool = True,
    ) -> Struct:
        """Warp, match and subtract.

        Parameters
        ----------
        templateExposure, scienceExposure : `lsst.afw.image.ExposureF`
            Exposures; not modified.
        templateFwhmPix, scienceFwhmPix : `float`, optional
            Not used: widths come from the PSFs.
        candidateList : list of `lsst.afw.table.SourceRecord`, optional
            Stars for the kernel; found on the science exposure if not given.
        doWarping : `bool`, optional
            Warp the template onto the pixels of the science exposure?
        convolveTemplate : `bool`, optional
            If not, the science exposure is convolved.

        Returns
        -------
        results : `lsst.pipe.base.Struct`
            ``subtractedExposure``, ``matchedExposure``, ``warpedExposure``, ``psfMatchingKernel``,
            ``backgroundModel``, ``kernelCellSet`` (`None`).
        """
        warped = templateExposure
        if doWarping:
            warped = self.original._warper.warpExposure(
                scienceExposure.getWcs(), templateExposure, destBBox=scienceExposure.getBBox()
            )
            warped.setPsf(self._warp_psf(templateExposure, scienceExposure))
        if not convolveTemplate:
            self.task.config.mode = "convolveScience"
        result = self.task.run(warped, scienceExposure, _as_catalog(candidateList))
        return Struct(
            subtractedExposure=result.difference,
            matchedExposure=result.matchedTemplate,
            warpedExposure=warped,
            psfMatchingKernel=result.psfMatchingKernel,
            backgroundModel=result.backgroundModel,
            kernelCellSet=None,
        )

    def _warp_psf(self, template: Any, science: Any) -> Any:
        """Return the template's PSF on the pixels of the science exposure."""
        from lsst.afw.geom import makeWcsPairTransform
        from lsst.meas.algorithms import WarpedPsf

        transform = makeWcsPairTransform(template.getWcs(), science.getWcs())
        return WarpedPsf(template.getPsf(), transform)


def _as_catalog(records: Any) -> Any:
    """Return a list of source records as a catalogue, `None` if there are none."""
    if records is None or hasattr(records, "schema") or len(records) == 0:
        return records if records is None or len(records) else None
    from lsst.afw.table import SourceCatalog

    catalog = SourceCatalog(records[0].getTable())
    for record in records:
        catalog.append(record)
    return catalog.copy(deep=True)


def make_twinkles_classes(base_task: Any, base_config: Any) -> tuple[Any, Any]:
    """Derive task and configuration of Twinkles from the stack's.

    Parameters
    ----------
    base_task, base_config : `type`
        ``ImageDifferenceTask`` and ``ImageDifferenceConfig`` of lsst.pipe.tasks.

    Returns
    -------
    task, config : `type`
        ``TwinklesImageDifferenceTask`` and ``TwinklesImageDifferenceConfig``.
    """

    class TwinklesImageDifferenceConfig(base_config):  # type: ignore[misc]
        """Configuration of the stack's task with Twinkles' overrides."""

        twinklesSubtract: Any = ConfigurableField(
            doc="Subtraction of lsst.twinkles.diffim, with its whitening.", target=AlardLuptonSubtractTask
        )

        def setDefaults(self) -> None:
            """Set what differs from the base."""
            super().setDefaults()
            # A visit is the template where the release still has the task that takes one.
            template = stack_class("lsst.ip.diffim.getTemplate:GetCalexpAsTemplateTask", None)
            if template is not None:
                self.getTemplate.retarget(template)
            self.doWriteMatchedExp = True
            self.doDecorrelation = False  # the subtraction whitens
            self.twinklesSubtract.mode = "auto"
            self.twinklesSubtract.makeKernel.kernel.name = "zogy"
            for name in ("doFlags", "doUnresolved", "doSignalToNoise", "doIsolated", "doRequirePrimary"):
                setattr(self.twinklesSubtract.sourceSelector, name, False)  # doSelectSources has chosen

    class TwinklesImageDifferenceTask(base_task):  # type: ignore[misc]
        """The stack's task with the subtraction of this package."""

        ConfigClass = TwinklesImageDifferenceConfig
        _DefaultName = "imageDifference"

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if self.config.doSubtract:
                field = self.config.twinklesSubtract
                subtract = field.target(config=field.value, name="twinklesSubtract", parentTask=self)
                self.subtract: Any = SubtractExposures(getattr(self, "subtract"), subtract)  # noqa: B009

    for cls in (TwinklesImageDifferenceConfig, TwinklesImageDifferenceTask):
        cls.__module__, cls.__qualname__ = __name__, cls.__name__
    return TwinklesImageDifferenceTask, TwinklesImageDifferenceConfig


@cache
def _classes() -> dict[str, Any]:
    task = stack_class(f"{_PLACE}:ImageDifferenceTask", None)
    if task is None:
        raise ImportError(
            f"{_PLACE}.ImageDifferenceTask is not there: it left the stack in May 2023 (after v25). Use "
            "lsst.twinkles.diffim.tasks.twinkles_image_difference.TwinklesImageDifferenceTask, or "
            "lsst.twinkles.diffim.stack.AlardLuptonSubtractTask in a pipeline.",
            name=_PLACE,
        )
    made = make_twinkles_classes(task, task.ConfigClass)
    return {cls.__name__: cls for cls in made}


def __getattr__(name: str) -> Any:
    if name in ("TwinklesImageDifferenceTask", "TwinklesImageDifferenceConfig"):
        return _classes()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
