"""Libraries of libraries that are not loaded before somebody uses them."""

from __future__ import annotations

__all__ = ("defer_import",)

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _DeferredModule(ModuleType):
    """Stands in for a module until something in it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def defer_import(name: str) -> None:
    """Let ``import`` of a module only note that it is wanted; its first use loads it.

    Parameters
    ----------
    name : `str`
        Name of a top-level module. Nothing is done if it is loaded already or not installed.

    Notes
    -----
    Piff imports treegp, and with it scikit-learn and pandas, for a kind of interpolation that hardly any PSF
    has; they take longer to load than an image to read. `importlib.util.LazyLoader` would not do: the
    ``import`` statement looks at the module's ``__spec__``, for which that loads everything.
    """
    if name in sys.modules or (spec := importlib.util.find_spec(name)) is None:
        return
    module = _DeferredModule(name)
    module.__spec__, module.__file__ = spec, spec.origin  # `inspect` asks for it
    sys.modules[name] = module
