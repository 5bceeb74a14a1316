"""Image differencing of pairs of visits as a task of a pipeline."""

from __future__ import annotations

__all__ = (
    "ImageDifferenceConnections",
    "ImageDifferencePipelineConfig",
    "ImageDifferencePipelineTask",
    "TwinklesImageDifferencePipelineConfig",
    "TwinklesImageDifferencePipelineTask",
)

import logging
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from lsst.daf.butler import (
    DataCoordinate,
    DatasetNotFoundError,
    MissingDatasetTypeError,
)
from lsst.pex.config import ChoiceField, Field
from lsst.pipe.base import (
    InputQuantizedConnection,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    connectionTypes,
)

from ..tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from ..tasks.twinkles_image_difference import set_twinkles_defaults
from .quantum import difference_quantum
from .select_templates import chosen_templates, rows_of

if TYPE_CHECKING:
    from lsst.pipe.base.connections import QuantaAdjuster

_LOG = logging.getLogger(__name__)

_DIMENSIONS = ("instrument", "visit", "detector")
_GROUP = ("instrument", "physical_filter", "detector")


class ImageDifferenceConnections(
    PipelineTaskConnections,
    dimensions=_DIMENSIONS,
    defaultTemplates={"coaddName": "deep", "inputName": "calexp"},
):
    """Datasets of `ImageDifferencePipelineTask`.

    Science exposure and another visit as its template are of one dataset
    type, which two connections of a task cannot share: one connection brings
    both, and their visits tell them apart. A coadd has a connection of its own.
    """

    exposures = connectionTypes.Input(
        doc="Science exposure and template exposure.",
        name="{inputName}",
        storageClass="VisitImage",
        dimensions=_DIMENSIONS,
        multiple=True,
        deferLoad=True,
    )
    template = connectionTypes.Input(
        doc="Coadd of other visits.",
        name="{coaddName}Coadd_template",
        storageClass="VisitImage",
        dimensions=_GROUP,
        deferLoad=True,
    )
    templateChoices = connectionTypes.PrerequisiteInput(
        doc="Templates chosen for all visits, and the scores of their candidates.",
        name="{coaddName}Diff_templateChoices",
        storageClass="ArrowAstropy",
        dimensions=_GROUP,
    )
    templateScores = connectionTypes.Output(
        doc="Scores of the candidates for the template of this exposure.",
        name="{coaddName}Diff_templateScores",
        storageClass="ArrowAstropy",
        dimensions=_DIMENSIONS,
    )
    differenceExp = connectionTypes.Output(
        doc="Science exposure minus matched template.",
        name="{coaddName}Diff_differenceExp",
        storageClass="DifferenceImage",
        dimensions=_DIMENSIONS,
    )
    matchedExp = connectionTypes.Output(
        doc="Template matched to the science exposure in PSF.",
        name="{coaddName}Diff_matchedExp",
        storageClass="VisitImage",
        dimensions=_DIMENSIONS,
    )
    warpedExp = connectionTypes.Output(
        doc="Template on the pixels of the science exposure.",
        name="{coaddName}Diff_warpedExp",
        storageClass="VisitImage",
        dimensions=_DIMENSIONS,
    )
    scoreExp = connectionTypes.Output(
        doc="Significance of a point source at each pixel.",
        name="{coaddName}Diff_scoreExp",
        storageClass="DifferenceImage",
        dimensions=_DIMENSIONS,
    )
    diaSrc = connectionTypes.Output(
        doc="Sources of the difference image.",
        name="{coaddName}Diff_diaSrc",
        storageClass="ArrowAstropy",
        dimensions=_DIMENSIONS,
    )
    kernelSrc = connectionTypes.Output(
        doc="Stars that made the matching kernel, and how well it fits them.",
        name="{coaddName}Diff_kernelSrc",
        storageClass="ArrowAstropy",
        dimensions=_DIMENSIONS,
    )
    metrics = connectionTypes.Output(
        doc="Figures of quality by name, and a verdict.",
        name="{coaddName}Diff_metrics",
        storageClass="StructuredDataDict",
        dimensions=_DIMENSIONS,
    )
    spatiallySampledMetrics = connectionTypes.Output(
        doc="Figures of quality at positions all over the image.",
        name="{coaddName}Diff_spatiallySampledMetrics",
        storageClass="ArrowAstropy",
        dimensions=_DIMENSIONS,
    )

    def __init__(self, *, config: ImageDifferencePipelineConfig) -> None:
        super().__init__(config=config)
        wanted = {
            "template": config.templateSource == "coadd",
            "templateChoices": config.templateSource == "chosen",
            "templateScores": config.templateSource == "chosen",
            "differenceExp": config.doWriteSubtractedExp,
            "matchedExp": config.doWriteMatchedExp,
            "warpedExp": config.doWriteWarpedExp,
            "scoreExp": config.doWriteScoreExp and config.doDetection,
            "diaSrc": config.doWriteSources and config.doMeasurement,
            "kernelSrc": config.doWriteMetrics,
            "metrics": config.doWriteMetrics and config.doAssessDifference,
            "spatiallySampledMetrics": config.doWriteMetrics and config.doSpatiallySampledMetrics,
        }
        for name, is_wanted in wanted.items():
            if not is_wanted:
                delattr(self, name)

    def adjust_all_quanta(self, adjuster: QuantaAdjuster) -> None:
        """Give every quantum its template, and take away those that have none."""
        source = self.config.templateSource  # type: ignore[attr-defined]
        quanta = list(adjuster.iter_data_ids())
        if source == "coadd":
            self._remove_members(adjuster, quanta)
            return
        if source == "chosen":
            templates = self._read_choices(adjuster, quanta)
        else:
            templates = self._name_template(quanta)
        by_place = {(_place(q), int(q["visit"])): q for q in quanta}
        orphans = []
        # All additions come first: a quantum that is removed takes its inputs along.
        for quantum in quanta:
            visit = templates[quantum]
            if visit is None:
                orphans.append(quantum)
            else:
                adjuster.add_input(quantum, "exposures", by_place[_place(quantum), visit])
        for quantum in orphans:
            adjuster.remove_quantum(quantum)

    def _name_template(self, quanta: list[DataCoordinate]) -> dict[DataCoordinate, int | None]:
        """Return the one template for each quantum, `None` for its own and where it was not taken."""
        visit = self.config.templateVisit  # type: ignore[attr-defined]
        places = {_place(q) for q in quanta if q["visit"] == visit}
        if quanta and not places:
            raise LookupError(
                f"templateVisit={visit} is not among the visits of the data query; "
                f"widen it, for example -d 'visit IN ({quanta[0]['visit']}, {visit})'."
            )
        return {q: visit if q["visit"] != visit and _place(q) in places else None for q in quanta}

    def _read_choices(
        self, adjuster: QuantaAdjuster, quanta: list[DataCoordinate]
    ) -> dict[DataCoordinate, int | None]:
        """Return the chosen template of each quantum, `None` where none may serve."""
        name = f"{self.config.connections.coaddName}Diff_templateChoices"  # type: ignore[attr-defined]
        here = {(_place(q), q["visit"]) for q in quanta}
        templates: dict[DataCoordinate, int | None] = {}
        try:
            tables = _read_tables(adjuster, quanta, name)
        except (DatasetNotFoundError, MissingDatasetTypeError) as error:
            raise LookupError(
                f"There is no {name} of these visits in the input collections; run selectTemplates.yaml "
                f"first, with the same query ({error})."
            ) from error
        for table, members in tables:
            chosen = chosen_templates(table)
            # In order, so that one and the same query ends in one and the same message.
            for quantum in sorted(members, key=lambda member: int(member["visit"])):
                visit = int(quantum["visit"])
                if visit not in chosen:
                    raise LookupError(
                        f"No template was chosen for visit {visit}; run selectTemplates on it, too."
                    )
                templates[quantum] = template = chosen[visit]
                if template is not None and (_place(quantum), template) not in here:
                    raise LookupError(
                        f"Visit {template}, the template of visit {visit}, is not among the visits of the "
                        "data query; widen it to those that selectTemplates chose from."
                    )
        return templates

    def _remove_members(self, adjuster: QuantaAdjuster, quanta: list[DataCoordinate]) -> None:
        """Take away the visits that are part of a coadd that is there; one still to be made refuses later."""
        name = f"{self.config.connections.coaddName}Coadd_inputs"  # type: ignore[attr-defined]
        with suppress(DatasetNotFoundError, MissingDatasetTypeError):
            for table, members in _read_tables(adjuster, quanta, name):
                coadded = set(table["visit"][table["weight"] > 0])
                for quantum in members:
                    if quantum["visit"] in coadded:
                        _LOG.warning("Visit %s is part of the coadd: no difference.", quantum["visit"])
                        adjuster.remove_quantum(quantum)


def _read_tables(
    adjuster: QuantaAdjuster, quanta: list[DataCoordinate], name: str
) -> list[tuple[Any, list[DataCoordinate]]]:
    """Return the stored table of each filter and detector, and the quanta that it is of."""
    groups: dict[tuple[Any, ...], list[DataCoordinate]] = defaultdict(list)
    for quantum in quanta:
        full = adjuster.expand_quantum_data_id(quantum)
        groups[tuple(full[key] for key in _GROUP)].append(quantum)
    return [
        (adjuster.butler.get(name, dict(zip(_GROUP, group, strict=True))), members)
        for group, members in groups.items()
    ]


def _place(data_id: DataCoordinate) -> tuple[Any, Any]:
    return data_id["instrument"], data_id["detector"]


class ImageDifferencePipelineConfig(
    PipelineTaskConfig, ImageDifferenceConfig, pipelineConnections=ImageDifferenceConnections
):
    """Configuration of `ImageDifferencePipelineTask`.

    The fields of `ImageDifferenceConfig` are at its top, so that the same
    override files load here and on the command line of Gen2 form.
    """

    templateSource = ChoiceField[str](
        doc="Where templates come from.",
        default="visit",
        allowed={
            "visit": "One visit is the template of all others (templateVisit).",
            "chosen": "The visit that the task selectTemplates has chosen for each, in an earlier run.",
            "coadd": "A coadd of other visits for each filter and detector, made by makeTemplate.",
        },
    )
    templateVisit = Field[int](
        doc="Visit that serves as template; it has to be in the data query.", optional=True
    )

    def validate(self) -> None:
        """Check that there is a template, and one name for the outputs."""
        super().validate()
        if self.templateSource == "visit" and self.templateVisit is None:
            raise ValueError("templateVisit must be set, for example -c imageDifference:templateVisit=250.")
        if self.connections.coaddName != self.coaddName:
            raise ValueError(
                f"coaddName={self.coaddName!r} and connections.coaddName={self.connections.coaddName!r} "
                "must agree; set both."
            )


class ImageDifferencePipelineTask(PipelineTask, ImageDifferenceTask):
    """Subtract templates from visits, as a task that ``pipetask run`` executes.

    Notes
    -----
    ``run`` is that of `ImageDifferenceTask`; this class moves the data. Where
    the template is a visit, the query (``-d``) has to select it along with the
    science visits; no difference is made of a template from itself.
    """

    ConfigClass = ImageDifferencePipelineConfig
    _DefaultName = "imageDifference"
    config: ImageDifferencePipelineConfig

    # PipelineTask comes first in the order of base classes and has a `run` that refuses.
    run = ImageDifferenceTask.run

    def runQuantum(
        self,
        butlerQC: QuantumContext,
        inputRefs: InputQuantizedConnection,
        outputRefs: OutputQuantizedConnection,
    ) -> None:
        """Read the two exposures, run, write what is configured."""
        data_id = butlerQC.quantum.dataId
        assert data_id is not None, "guaranteed by the dimensions of the task"
        science_visit = int(data_id["visit"])
        inputs = butlerQC.get(inputRefs)
        handles = {h.dataId["visit"]: h for h in inputs["exposures"]}
        science = handles.pop(science_visit).get()
        # Beside the science exposure there is the visit that is the template, or none.
        template_handle = inputs["template"] if "template" in inputs else next(iter(handles.values()))
        choices = inputs.get("templateChoices")
        difference_quantum(
            self,
            butlerQC,
            outputRefs,
            science=science,
            template=template_handle.get(),
            template_ref=template_handle.ref,
            scores=None if choices is None else rows_of(choices, science_visit),
        )


class TwinklesImageDifferencePipelineConfig(
    ImageDifferencePipelineConfig, pipelineConnections=ImageDifferenceConnections
):
    """Configuration of `TwinklesImageDifferencePipelineTask`."""

    def setDefaults(self) -> None:
        """Set what is right for Twinkles."""
        super().setDefaults()
        set_twinkles_defaults(self)


class TwinklesImageDifferencePipelineTask(ImageDifferencePipelineTask):
    """The same with the overrides of the Twinkles survey."""

    ConfigClass = TwinklesImageDifferencePipelineConfig
    config: TwinklesImageDifferencePipelineConfig
