"""Names of the Rubin stack that configuration override files import.

Files written for the stack retarget to classes of packages that need afw. While
such a file is read, these names lead to our own classes; a name that the
installed stack has leads to the stack's.
"""

from __future__ import annotations

__all__ = ("REFUSED", "STAND_INS", "resolve_stack_names")

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_TASKS = "lsst.twinkles.diffim.tasks"
_GET_CALEXP = {
    "GetCalexpAsTemplateTask": f"{_TASKS}.get_template:GetCalexpAsTemplateTask",
    "GetCalexpAsTemplateConfig": f"{_TASKS}.get_template:GetCalexpAsTemplateConfig",
}
_SUBTRACT = {
    "AlardLuptonSubtractTask": f"{_TASKS}.subtract:AlardLuptonSubtractTask",
    "AlardLuptonSubtractConfig": f"{_TASKS}.subtract:AlardLuptonSubtractConfig",
}
_IMAGE_PSF_MATCH = {
    "ImagePsfMatchTask": f"{_TASKS}.subtract:AlardLuptonSubtractTask",
    "ImagePsfMatchConfig": f"{_TASKS}.subtract:AlardLuptonSubtractConfig",
}
_DECORRELATE = {
    "DecorrelateALKernelTask": f"{_TASKS}.decorrelate:DecorrelateTask",
    "DecorrelateALKernelConfig": f"{_TASKS}.decorrelate:DecorrelateConfig",
}

STAND_INS: Mapping[str, Mapping[str, str]] = {
    "lsst.ip": {},
    "lsst.ip.diffim": _GET_CALEXP | _SUBTRACT | _IMAGE_PSF_MATCH | _DECORRELATE,
    "lsst.ip.diffim.getTemplate": _GET_CALEXP,
    "lsst.ip.diffim.imageDecorrelation": _DECORRELATE,
    "lsst.ip.diffim.imagePsfMatch": _IMAGE_PSF_MATCH,
    "lsst.ip.diffim.subtractImages": _SUBTRACT,
    "lsst.meas": {},
    "lsst.meas.algorithms": {
        "SourceDetectionTask": f"{_TASKS}.detection:DetectionTask",
        "SourceDetectionConfig": f"{_TASKS}.detection:DetectionConfig",
    },
    "lsst.pipe.tasks": {},
    "lsst.pipe.tasks.imageDifference": {
        "ImageDifferenceTask": f"{_TASKS}.image_difference:ImageDifferenceTask",
        "ImageDifferenceConfig": f"{_TASKS}.image_difference:ImageDifferenceConfig",
    },
}
"""Module to name to ``module:class`` of the class that stands in."""

_NO_COADDS = (
    "coadds are templates by the name of their dataset: set config.datasets.template, or run "
    "pipelines/imageDifferenceCoadd.yaml, and leave config.getTemplate as it is"
)
_NOT_SPATIAL = "decorrelation varies over the image here without a grid: use DecorrelateALKernelTask"
_NO_DIPOLES = "the measurement here fits dipoles of its own: leave config.measurement as it is"

REFUSED: Mapping[str, str] = {
    "GetCoaddAsTemplateTask": _NO_COADDS,
    "GetCoaddAsTemplateConfig": _NO_COADDS,
    "GetTemplateTask": _NO_COADDS,
    "GetDcrTemplateTask": _NO_COADDS,
    "DecorrelateALKernelSpatialTask": _NOT_SPATIAL,
    "DecorrelateALKernelSpatialConfig": _NOT_SPATIAL,
    "DecorrelateALKernelMapReduceConfig": _NOT_SPATIAL,
    "DipoleFitTask": _NO_DIPOLES,
    "ZogyTask": "ZOGY is a kernel of the subtraction here: set config.subtract.kernel.name = 'zogy'",
}
"""Name to the reason why nothing stands in for it."""


@contextmanager
def resolve_stack_names() -> Iterator[None]:
    """Let names of the stack lead to the stand-ins within a ``with`` block.

    A module or a name that the installed stack has stays the stack's own.
    Afterwards `sys.modules`, `sys.meta_path` and the modules of the stack are
    as they were.
    """
    finder = _StackFinder()
    finder.complete_loaded_modules()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        finder.undo()


class _StackFinder(importlib.abc.MetaPathFinder):
    """Find stand-in modules, and complete real ones with the names they lack."""

    def __init__(self) -> None:
        self.added: list[tuple[ModuleType, str]] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in STAND_INS:
            return None
        real = self._find_real(fullname, path, target)
        if real is None:
            return importlib.machinery.ModuleSpec(fullname, _StandInLoader(), is_package=True)
        if real.loader is not None and hasattr(real.loader, "exec_module"):
            real.loader = _CompletingLoader(real.loader, self)
        return real

    def _find_real(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> importlib.machinery.ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)) is not None:
                return spec
        return None

    def complete_loaded_modules(self) -> None:
        for name in STAND_INS:
            if (module := sys.modules.get(name)) is not None:
                self.complete(module)

    def complete(self, module: ModuleType) -> None:
        """Add the names that a module of the stack lacks."""
        for name, place in STAND_INS[module.__name__].items():
            if not hasattr(module, name):
                setattr(module, name, _load_class(place))
                self.added.append((module, name))

    def undo(self) -> None:
        for module, name in self.added:
            delattr(module, name)
        for name in sorted(STAND_INS, reverse=True):
            stand_in = sys.modules.get(name)
            if not isinstance(getattr(stand_in, "__loader__", None), _StandInLoader):
                continue
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if getattr(sys.modules.get(parent), child, None) is stand_in:
                delattr(sys.modules[parent], child)


class _StandInLoader(importlib.abc.Loader):
    """Make a module whose names are classes of this package, imported when asked for."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        names = STAND_INS[module.__name__]

        def get(name: str) -> Any:
            if name in names:
                return _load_class(names[name])
            if name.startswith("__") or f"{module.__name__}.{name}" in STAND_INS:
                raise AttributeError(name)
            raise ImportError(explain_missing_name(module.__name__, name), name=module.__name__)

        module.__getattr__ = get  # type: ignore[method-assign]


class _CompletingLoader(importlib.abc.Loader):
    """Run a loader of the stack, then add the names that its module lacks."""

    def __init__(self, loader: Any, finder: _StackFinder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its own loader, for whoever asks it for resources or source.
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._finder.complete(module)


def _load_class(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def explain_missing_name(module: str, name: str) -> str:
    """Return a sentence on why a name cannot be imported from a stand-in module.

    Parameters
    ----------
    module, name : `str`
        Module and the name looked for in it.
    """
    if name in REFUSED:
        return f"{module}.{name}: {REFUSED[name]}."
    known = ", ".join(STAND_INS[module]) or "nothing but subpackages"
    return (
        f"cannot import name {name!r} from {module!r}, which is not installed; this package stands in for "
        f"{known}. Names of the stack that it knows: {describe_stand_ins()}."
    )


def describe_stand_ins() -> str:
    """Return all module and class names that are stood in for (`str`)."""
    return "; ".join(f"{module}: {', '.join(names)}" for module, names in STAND_INS.items() if names)
