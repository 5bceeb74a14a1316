"""Placeholder until the stage lands."""

from __future__ import annotations

from typing import Any

from lsst.pex.config import ChoiceField, Config, ConfigChoiceField
from lsst.pipe.base import Struct, Task


class AlardLuptonKernelConfig(Config):
    """Placeholder."""


class AlardLuptonSubtractConfig(Config):
    """Placeholder."""

    mode = ChoiceField[str](
        doc="Which image is convolved.",
        default="convolveTemplate",
        allowed={"convolveTemplate": "template", "convolveScience": "science", "auto": "sharper"},
    )
    kernel = ConfigChoiceField(doc="Kernel.", typemap={"AL": AlardLuptonKernelConfig}, default="AL")


class AlardLuptonSubtractTask(Task):
    """Placeholder."""

    ConfigClass = AlardLuptonSubtractConfig
    _DefaultName = "subtract"

    def run(self, template: Any, science: Any, sources: Any = None) -> Struct:
        """Refuse."""
        raise NotImplementedError
