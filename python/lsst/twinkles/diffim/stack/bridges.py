"""The stack's tasks as stages of `~lsst.twinkles.diffim.tasks.image_difference.ImageDifferenceTask`.

    config.subtract.retarget(StackSubtractTask)
    config.measurement.retarget(StackDetectAndMeasureTask)

Each converts its inputs to afw types, runs the task of the stack that its configuration holds, and converts
what comes back.
"""

from __future__ import annotations

__all__ = (
    "StackDetectAndMeasureConfig",
    "StackDetectAndMeasureTask",
    "StackSubtractConfig",
    "StackSubtractTask",
)

from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
from astropy.table import Table

from lsst.pex.config import Config, ConfigurableField, RangeField
from lsst.pipe.base import Struct, Task

from ..adapters.masks import bad_pixels
from ..adapters.psfs import psf_from_grid, sample_psf
from ..algorithms.match.candidates import find_candidates
from ..algorithms.noise import fit_sky
from ..algorithms.spatial import chebyshev_image
from ..tasks.difference_image import make_difference_image, make_matched_image
from .errors import stack_class
from .exposures import mask_from_afw
from .psfs import AfwPsf
from .to_afw import exposure_to_afw, sources_to_afw
from .unused_fields import PlaceholderTask

if TYPE_CHECKING:
    from lsst.images import DifferenceImage, VisitImage

_SKY_CELL = 64


class StackSubtractConfig(Config):
    """Configuration of `StackSubtractTask`."""

    subtractImages: Any = ConfigurableField(
        doc="The stack's subtraction, or any with its interface.",
        target=stack_class("lsst.ip.diffim.subtractImages:AlardLuptonSubtractTask", PlaceholderTask),
    )
    detectionThreshold = RangeField[float](
        doc="Least signal-to-noise ratio, in 3 x 3 pixels, of stars that it is offered if none are given.",
        default=15.0,
        min=1.0,
    )


class StackSubtractTask(Task):
    """Let the stack's subtraction do the work of the subtract stage."""

    ConfigClass = StackSubtractConfig
    _DefaultName = "subtract"
    config: StackSubtractConfig
    subtractImages: Any

    def __init__(self, config: Config | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        # A PipelineTask of its own: made by its class, for its name need not be the one of the field.
        field = self.config.subtractImages
        self.subtractImages = field.target(config=field.value, name="subtractImages", parentTask=self)

    def run(self, template: VisitImage, science: VisitImage, sources: Table | None = None) -> Struct:
        """Subtract.

        Parameters
        ----------
        template, science : `lsst.images.VisitImage`
            Exposures on the same pixels; not modified.
        sources : `astropy.table.Table`, optional
            Stars (``x``, ``y``); bright maxima of the science image if not given.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            As `~lsst.twinkles.diffim.tasks.subtract.AlardLuptonSubtractTask.run`; ``whitened`` tells how the
            stack's task is configured.
        """
        afw_template, afw_science = exposure_to_afw(template), exposure_to_afw(science)
        stars = self._make_sources(science, sources)
        result = self.subtractImages.run(afw_template, afw_science, stars)
        for name in self.subtractImages.metadata.names():
            if not name.startswith(("runStart", "runEnd", "__", "nodeName")):
                self.metadata[name] = self.subtractImages.metadata[name]
        return self._convert(science, template, result)

    def _make_sources(self, science: VisitImage, sources: Table | None) -> Any:
        """Return the catalogue from which the stack's task chooses."""
        image = science.image.array
        bad = bad_pixels(science.mask, ["NO_DATA", "BAD", "SAT"]) | ~np.isfinite(image)
        pixels = np.where(bad, np.float32(0.0), image)
        sky = fit_sky(pixels, bad, size=min(_SKY_CELL, max(16, min(image.shape) // 5)), order=2)
        flat = np.where(bad, np.float32(0.0), pixels - chebyshev_image(sky, shape=image.shape, order=2))
        error = 3.0 * float(np.sqrt(np.nanmedian(science.variance.array[~bad])))
        if sources is None:
            found = find_candidates(flat, threshold=self.config.detectionThreshold * error, border=8)
            x, y = found.x, found.y
        else:
            x = np.rint(np.asarray(sources["x"], float) - science.bbox.x.start).astype(int)
            y = np.rint(np.asarray(sources["y"], float) - science.bbox.y.start).astype(int)
        inside = (x > 0) & (y > 0) & (x < image.shape[1] - 1) & (y < image.shape[0] - 1)
        x, y = x[inside], y[inside]
        flux = np.sum([flat[y + j, x + i] for j in (-1, 0, 1) for i in (-1, 0, 1)], axis=0, dtype=float)
        table = Table(
            {
                "x": x + float(science.bbox.x.start),
                "y": y + float(science.bbox.y.start),
                "flux": np.reshape(flux, x.shape),
                "fluxErr": np.full(x.shape, error),
            }
        )
        return sources_to_afw(table, **_selected_columns(self.subtractImages.config.sourceSelector))

    def _convert(self, science: VisitImage, template: VisitImage, result: Struct) -> Struct:
        from lsst.images.convolution_kernels import ImageBasisConvolutionKernel
        from lsst.images.fields import ChebyshevField

        box, unit = science.bbox, science.unit
        nothing = ChebyshevField(box, np.zeros((1, 1)), unit=unit)
        model = result.backgroundModel
        background = nothing if model is None else ChebyshevField.from_legacy_function2(model, unit=unit)
        convolved = self.subtractImages.metadata["convolvedExposure"] == "Template"
        kernel = ImageBasisConvolutionKernel.from_legacy(result.psfMatchingKernel)
        difference = make_difference_image(science, **_parts(result.difference, box), kernel=kernel)
        matched = make_matched_image(
            science, template, **_parts(result.matchedTemplate, box), convolved=convolved
        )
        x, y = (np.array([getattr(s, f"get{a}")() for s in result.kernelSources], float) for a in "XY")
        return Struct(
            difference=difference,
            matchedTemplate=matched,
            backgroundModel=background,
            templateBackground=nothing,
            psfMatchingKernel=kernel,
            kernelSources=Table(
                {"x": x, "y": y, "used": np.ones(len(x), dtype=bool)}, units={"x": u.pix, "y": u.pix}
            ),
            convolvedTemplate=convolved,
            whitened=bool(self.subtractImages.config.doDecorrelation),
        )


def _parts(exposure: Any, box: Any) -> dict[str, Any]:
    """Return pixels, mask and PSF of an afw exposure as images are made of them here."""
    grid = sample_psf(AfwPsf(exposure.getPsf(), box), box)
    return {
        "image": exposure.image.array,
        "variance": exposure.variance.array,
        "mask": mask_from_afw(exposure.mask),
        "psf": psf_from_grid(grid, box, order=min(3, len(grid.x) - 1, len(grid.y) - 1)),
    }


def _selected_columns(selector: Any) -> dict[str, Any]:
    """Return the columns that a source selector of the stack looks at."""
    return {
        "flags": [*selector.flags.bad],
        "numbers": [selector.unresolved.name, selector.isolated.nChildName],
        "primary": selector.requirePrimary.primaryColName,
    }


class StackDetectAndMeasureConfig(Config):
    """Configuration of `StackDetectAndMeasureTask`."""

    detectAndMeasure: Any = ConfigurableField(
        doc="The stack's detection and measurement, or any with its interface.",
        target=stack_class("lsst.ip.diffim.detectAndMeasure:DetectAndMeasureTask", PlaceholderTask),
    )


class StackDetectAndMeasureTask(Task):
    """Let the stack detect and measure; what the detection stage before found is not used."""

    ConfigClass = StackDetectAndMeasureConfig
    _DefaultName = "measurement"
    config: StackDetectAndMeasureConfig
    detectAndMeasure: Any

    def __init__(self, config: Config | None = None, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        field = self.config.detectAndMeasure
        self.detectAndMeasure = field.target(config=field.value, name="detectAndMeasure", parentTask=self)

    def run(
        self,
        difference: DifferenceImage,
        science: VisitImage,
        matchedTemplate: VisitImage,
        sources: Table,
        idBase: int = 1,
        errorScale: float = 1.0,
    ) -> Struct:
        """Detect and measure.

        Parameters
        ----------
        difference : `lsst.images.DifferenceImage`
            Difference; the detections are set in its mask.
        science, matchedTemplate : `lsst.images.VisitImage`
            What was subtracted from what; not modified.
        sources : `astropy.table.Table`
            Not used.
        idBase : `int`, optional
            First identifier.
        errorScale : `float`, optional
            Not used.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``diaSources`` (`astropy.table.Table`): the columns of the stack's catalogue, and ``diaSourceId``.
        """
        exposures = [exposure_to_afw(e) for e in (science, matchedTemplate, difference)]
        result = self.detectAndMeasure.run(*exposures)
        mask = mask_from_afw(result.subtractedMeasuredExposure.mask)
        for name in ("DETECTED", "DETECTED_NEGATIVE", "STREAK", "COSMIC_RAY"):
            if name in difference.mask.schema.names:
                difference.mask.set(name, mask.get(name))
        catalog = getattr(result, "diaSources", None)
        table = Table() if catalog is None else catalog.asAstropy()
        table["diaSourceId"] = idBase + np.arange(len(table), dtype=np.int64)
        return Struct(diaSources=table)
