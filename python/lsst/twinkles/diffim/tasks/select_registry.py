"""The methods of choosing templates by name."""

from __future__ import annotations

__all__ = ("selectTemplateRegistry",)

from lsst.pex.config import makeRegistry

from .select_best_seeing import BestSeeingSelectTemplateTask
from .select_explicit import ExplicitSelectTemplateTask
from .select_psf import PsfSelectTemplateTask
from .select_quantile import BestSeeingQuantileSelectTemplateTask
from .select_template import SelectTemplateConfig

selectTemplateRegistry = makeRegistry(  # noqa: N816 (as registries of the stack are named)
    "Tasks that choose the templates of a science exposure, or the visits of a coadd.",
    configBaseType=SelectTemplateConfig,
)
"""Registry of the methods; another survey adds its own with ``register(name, Task)``."""

selectTemplateRegistry.register("psf", PsfSelectTemplateTask)
selectTemplateRegistry.register("bestSeeing", BestSeeingSelectTemplateTask)
selectTemplateRegistry.register("bestSeeingQuantile", BestSeeingQuantileSelectTemplateTask)
selectTemplateRegistry.register("explicit", ExplicitSelectTemplateTask)
