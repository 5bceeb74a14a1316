"""Fields of the stack's configurations that have no counterpart here.

Override files written for the stack name them; they are accepted, and a value other than the default is said
in the log to have no effect, with the reason.
"""

from __future__ import annotations

__all__ = ("PlaceholderConfig", "PlaceholderTask", "UnusedField", "add_unused_fields", "find_unused_settings")

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from lsst.pex.config import Config, Field, ListField
from lsst.pipe.base import Task


@dataclass(frozen=True)
class UnusedField:
    """A field without effect: its name, its default in the stack, and what happens instead."""

    name: str
    default: bool | int | float | str | tuple[str, ...]
    reason: str
    deprecated: bool = False


def add_unused_fields(*fields: UnusedField) -> Any:
    """Return a decorator that adds fields without effect to a configuration class."""

    def decorate(config_class: type[Config]) -> type[Config]:
        for field in fields:
            doc = f"Of the stack; without effect here: {field.reason}."
            deprecated = "No longer used." if field.deprecated else None
            if isinstance(field.default, tuple):
                made = ListField(doc=doc, dtype=str, default=list(field.default), deprecated=deprecated)
            else:
                made = Field(doc=doc, dtype=type(field.default), default=field.default, deprecated=deprecated)
            setattr(config_class, field.name, made)
        inherited = getattr(config_class, "unused_fields", ())
        config_class.unused_fields = (*inherited, *fields)  # type: ignore[attr-defined]
        return config_class

    return decorate


def find_unused_settings(config: Config, prefix: str = "") -> Iterator[str]:
    """Yield a sentence for each field without effect that is not at its default."""
    fields: Iterable[UnusedField] = getattr(type(config), "unused_fields", ())
    for field in fields:
        value = getattr(config, field.name)
        value = tuple(value) if isinstance(field.default, tuple) else value
        if value != field.default:
            yield f"{prefix}{field.name}={value!r} has no effect: {field.reason}."


class PlaceholderConfig(Config):
    """Configuration of a stage of the stack that is not set up: empty."""


class PlaceholderTask(Task):
    """Hold the place of a task of the stack where the stack is not set up."""

    ConfigClass = PlaceholderConfig
    _DefaultName = "placeholder"

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to run."""
        raise NotImplementedError(
            f"The stage {self.getName()!r} is a task of the stack's, which is not set up; switch it off, or "
            "retarget it."
        )
