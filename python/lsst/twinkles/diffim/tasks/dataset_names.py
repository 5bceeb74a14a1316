"""Names of the datasets that an image difference reads and writes."""

from __future__ import annotations

__all__ = ("DatasetNamesConfig", "set_rubin_names")

from typing import Any

from lsst.pex.config import ChoiceField, Config, Field

_OUTPUTS = ("differenceExp", "matchedExp", "warpedExp", "scoreExp", "diaSrc", "kernelSrc")


class DatasetNamesConfig(Config):
    """Names of datasets, and the layout of files; an output without one is ``<coaddName>Diff_<field>``."""

    exposure = Field[str](doc="Science exposures, and templates if template is empty.", default="calexp")
    template = Field[str](
        doc="Templates that were made for each science exposure and have its data id; if empty, templates "
        "are exposures of other visits.",
        default="",
    )
    differenceExp = Field[str](doc="Difference images.", default="")
    matchedExp = Field[str](doc="Templates matched in PSF.", default="")
    warpedExp = Field[str](doc="Templates on the science grid.", default="")
    scoreExp = Field[str](doc="Likelihood images.", default="")
    diaSrc = Field[str](doc="DIA sources.", default="")
    kernelSrc = Field[str](doc="Stars of the kernel.", default="")
    layout = ChoiceField[str](
        doc="Layout of the image files that the command writes; in pipelines the datastore decides.",
        default="images",
        allowed={
            "images": "that of lsst.images, with all that is known",
            "afw": "that of lsst.afw: the stack's ExposureF.readFits opens them; without matching kernel",
        },
    )

    def outputs(self) -> dict[str, str]:
        """Return the outputs that have a name of their own (`dict` [`str`, `str`])."""
        return {name: getattr(self, name) for name in _OUTPUTS if getattr(self, name)}


def set_rubin_names(config: Any, *, exposure: str = "preliminary_visit_image") -> None:
    """Change a configuration to the dataset names of today's Rubin pipelines.

    Parameters
    ----------
    config : `~lsst.twinkles.diffim.tasks.image_difference.ImageDifferenceConfig`
        Configuration of the task or of one of its pipeline tasks; changed.
    exposure : `str`, optional
        ``preliminary_visit_image`` of prompt processing, or ``visit_image`` of a data release.
    """
    names = {
        "exposure": exposure,
        "template": "template_detector",
        "differenceExp": "difference_image",
        "matchedExp": "template_matched",
        "diaSrc": "dia_source_detector",
    }
    for field, name in names.items():
        setattr(config.datasets, field, name)
    connections = getattr(config, "connections", None)
    if connections is None:
        return
    if hasattr(connections, "exposure"):
        connections.exposure, connections.template = exposure, names["template"]
    else:
        connections.inputName = exposure
    for field in ("differenceExp", "matchedExp", "diaSrc"):
        setattr(connections, field, names[field])
