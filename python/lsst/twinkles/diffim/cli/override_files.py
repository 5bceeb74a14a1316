"""Configuration override files: Python that changes the variable ``config``."""

from __future__ import annotations

__all__ = (
    "ConfigOverrideError",
    "apply_overrides",
    "find_field",
    "find_override_file",
    "load_override_file",
    "set_config_value",
)

import logging
import traceback
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .stack_names import describe_stand_ins, resolve_stack_names
from .trust import UntrustedFileError, guard_loads

if TYPE_CHECKING:
    from lsst.pex.config import Config

    from .gen2_parser import ConfigOverride


_LOG = logging.getLogger(__name__)
_PACKAGE = "lsst.twinkles.diffim"
_OWN_FILES = "config"


class ConfigOverrideError(Exception):
    """An override could not be applied; the message says which and why."""


def apply_overrides(config: Config, overrides: Iterable[ConfigOverride], *, trust: bool = False) -> None:
    """Apply overrides from the command line, in their order.

    Parameters
    ----------
    config : `lsst.pex.config.Config`
        Configuration to change.
    overrides : iterable of `ConfigOverride`
        Values and files.
    trust : `bool`, optional
        Whether root executes files that others may have written.

    Raises
    ------
    ConfigOverrideError
        If one of them cannot be applied.
    """
    for override in overrides:
        if override.kind == "file":
            load_override_file(config, override.name, trust=trust)
        else:
            set_config_value(config, override.name, override.value)


def load_override_file(config: Config, path: str | Path, *, trust: bool = False) -> None:
    """Execute a configuration override file.

    Parameters
    ----------
    config : `lsst.pex.config.Config`
        Configuration to change; the file sees it as ``config``, and its own
        path as ``__file__``.
    path : `str` or `~pathlib.Path`
        Python file. It is executed: read only files that you trust. Of a
        name below ``config/`` that is not there the package brings its own.
    trust : `bool`, optional
        Whether root executes a file that others may have written.

    Raises
    ------
    ConfigOverrideError
        If the file cannot be read or fails; the message names file and line.
        Also, for root, if others may have written it, or a file that it
        loads itself (`.trust`).

    Notes
    -----
    Imports of `lsst.ip.diffim` and its like lead to the classes of this
    package where the stack is not installed (`.stack_names`).
    """
    path = find_override_file(path) or str(path)
    try:
        with guard_loads(trust=trust), resolve_stack_names():
            config.load(path)
    except UntrustedFileError as error:
        raise ConfigOverrideError(str(error)) from error
    except Exception as error:
        raise ConfigOverrideError(f"{_locate(error, path)}: {_explain(error)}") from error


def find_override_file(path: str | Path) -> str | None:
    """Return the place of an override file, `None` if there is none.

    Parameters
    ----------
    path : `str` or `~pathlib.Path`
        Path, ``~`` for the home directory, or a ``resource://`` URI. A file
        of ``config/`` that is not there is the one that the package brings.
    """
    name = str(path)
    if name.startswith("resource://"):
        return name
    file = Path(name).expanduser()
    if file.is_file():
        return str(file)
    if file.parent != Path(_OWN_FILES):
        return None
    if not (files(_PACKAGE) / "data" / _OWN_FILES / file.name).is_file():
        return None
    _LOG.info("%s is the one that the package brings.", name)
    return f"resource://{_PACKAGE}/data/{_OWN_FILES}/{file.name}"


def set_config_value(config: Config, name: str, text: str) -> None:
    """Set one field from the text of a command line.

    Parameters
    ----------
    config : `lsst.pex.config.Config`
        Configuration to change.
    name : `str`
        Dotted name such as ``subtract.kernel.name``.
    text : `str`
        Value; taken as it is by a field of text, as a Python literal by others.

    Raises
    ------
    ConfigOverrideError
        If there is no such field, or it does not take the value.
    """
    parent, attribute = find_field(config, name)
    candidates = _read_literal(text) if _is_list(getattr(parent, attribute)) else [text, *_read_literal(text)]
    if not candidates:
        candidates = [[text]]
    error: Exception | None = None
    for value in candidates:
        try:
            setattr(parent, attribute, value)
            return
        except (TypeError, ValueError) as caught:
            error = caught
    raise ConfigOverrideError(f"cannot set config.{name} to {value!r}: {error}") from error


def _read_literal(text: str) -> list[Any]:
    """Return the Python literal that a text is, as a list of one; an empty list if it is none."""
    import ast

    try:
        return [ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return []


def _is_list(value: Any) -> bool:
    # A list field would take a text letter by letter.
    return hasattr(value, "append")


def find_field(config: Config, name: str) -> tuple[Any, str]:
    """Return the (sub)configuration and attribute that a dotted name means."""
    *path, attribute = name.split(".")
    node: Any = config
    for depth, step in enumerate([*path, attribute]):
        if not _has_field(node, step):
            place = ".".join(path[:depth])
            choices = _field_names(node)
            raise ConfigOverrideError(
                f"no config field: {name}"
                + (f" ({place} has no {step!r})" if place else "")
                + (f"; did you mean {_closest(step, choices)}?" if _closest(step, choices) else "")
            )
        if step not in ("name", "names"):
            node = _active(node)
        if depth < len(path):
            node = getattr(node, step)
    return node, attribute


def _active(node: Any) -> Any:
    """Return the configuration that is chosen, of a choice of several; other nodes as they are."""
    active = getattr(node, "active", None) if not hasattr(type(node), "_fields") else None
    return node if active is None or not hasattr(active, "keys") else active


def _has_field(node: Any, name: str) -> bool:
    # A choice of configurations has "name" and "names" beside the fields of the active choice.
    return name in _field_names(node) or (name in ("name", "names") and hasattr(node, name))


def _field_names(node: Any) -> list[str]:
    """Return the names of the fields of a configuration, seen through pex_config's proxies."""
    for attribute in ("value", "active"):
        inner = getattr(node, attribute, None) if not hasattr(type(node), "_fields") else None
        if inner is not None and hasattr(inner, "keys"):
            return list(inner.keys())
    return list(node.keys()) if hasattr(type(node), "_fields") else []


def _closest(name: str, choices: list[str]) -> str | None:
    import difflib

    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def _locate(error: BaseException, path: str | Path) -> str:
    """Return file and line at which executing a file failed."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    own = {str(path), str(Path(path).absolute()), str(Path(path).resolve())}
    lines = [frame.lineno for frame in frames if frame.filename.removeprefix("file://") in own]
    return f"{path}, line {lines[-1]}" if lines else str(path)


def _explain(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("lsst."):
        return f"{error}; this package stands in for: {describe_stand_ins()}"
    if isinstance(error, AttributeError):
        return f"no such field or attribute: {error}"
    return f"{type(error).__name__}: {error}" if not isinstance(error, ImportError) else str(error)
