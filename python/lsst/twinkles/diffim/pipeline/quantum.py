"""The work on one quantum of an image difference, whichever way its exposures came."""

from __future__ import annotations

__all__ = ("difference_quantum",)

from typing import Any

from lsst.daf.butler import DatasetRef
from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    OutputQuantizedConnection,
    QuantumContext,
    Struct,
)

from ..tasks.difference_image import score_exposure
from ..tasks.errors import BadSubtractionError
from .ids import DiaSourceIdFactory
from .provenance import describe_template


def difference_quantum(
    task: Any,
    butlerQC: QuantumContext,
    outputRefs: OutputQuantizedConnection,
    *,
    science: Any,
    template: Any,
    template_ref: DatasetRef,
    scores: Any = None,
) -> None:
    """Subtract, and write what is configured; also of a difference that is refused.

    Parameters
    ----------
    task : `lsst.pipe.base.PipelineTask`
        The task, whose ``run`` is that of `~lsst.twinkles.diffim.tasks.image_difference.ImageDifferenceTask`.
    butlerQC, outputRefs
        As ``runQuantum`` has them.
    science, template : `lsst.images.VisitImage`
        The exposures.
    template_ref : `lsst.daf.butler.DatasetRef`
        Which dataset the template is.
    scores : `astropy.table.Table`, optional
        How the template was chosen.

    Raises
    ------
    lsst.pipe.base.AnnotatedPartialOutputsError
        An algorithm could not do its work.
    """
    data_id = butlerQC.quantum.dataId
    assert data_id is not None, "guaranteed by the dimensions of the task"
    factory = DiaSourceIdFactory(int(data_id["visit"]), int(data_id["detector"]))

    def put(result: Struct) -> None:
        difference = result.subtractedExposure
        difference.templates = [describe_template(difference, template, template_ref)]
        outputs = {name: _output(result, name, scores) for name, _ in outputRefs}
        butlerQC.put(Struct(**outputs), outputRefs)

    try:
        result = task.run(science, template, idFactory=factory)
    except AlgorithmError as error:
        if isinstance(error, BadSubtractionError) and error.partial_outputs is not None:
            put(error.partial_outputs)
        raise AnnotatedPartialOutputsError.annotate(error, task, log=task.log) from error
    put(result)


def _output(result: Struct, name: str, scores: Any) -> Any:
    """Return the result that goes to a connection."""
    match name:
        case "differenceExp":
            return result.subtractedExposure
        case "matchedExp":
            return result.matchedExposure
        case "warpedExp":
            return result.warpedExposure
        case "scoreExp":
            return score_exposure(result)
        case "diaSrc":
            return result.diaSources
        case "kernelSrc":
            return result.subtractRes.kernelSources
        case "templateScores":
            return scores
    return getattr(result, name)
