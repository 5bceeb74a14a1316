"""What ``--show`` prints."""

from __future__ import annotations

__all__ = ("show_config", "show_data", "show_history", "show_tasks")

import fnmatch
import io
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from .logs import COMMAND_LOGGER
from .places import CommandError

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.daf.butler import DatasetRef
    from lsst.pex.config import Config

_LOG = logging.getLogger(COMMAND_LOGGER)

_PREFIX = "config."
_OBEY_CASE = ":NOIGNORECASE"


def show_config(config: Config, pattern: str = "") -> str:
    """Return a configuration as an override file, or those of its fields that match.

    Parameters
    ----------
    config : `lsst.pex.config.Config`
        Configuration.
    pattern : `str`, optional
        Shell pattern for names such as ``subtract.kernel.*`` or their last
        parts. Case matters if there is an upper-case letter in it, or
        ``:NOIGNORECASE`` after it.

    Returns
    -------
    text : `str`
        The fields, each after a comment.
    """
    stream = io.StringIO()
    config.saveToStream(stream, "config")
    if not pattern:
        return stream.getvalue().rstrip("\n")
    matches = _compile(pattern)
    entries = list(_split_entries(stream.getvalue()))
    found = [text for name, text in entries if matches(name) or matches(_without_choice(name))]
    if not found:
        _LOG.warning("No field of the configuration fits the pattern %r.", pattern)
    return "\n\n".join(found)


def _compile(pattern: str) -> Any:
    """Return a function that tells whether a dotted name, or its end, fits a pattern."""
    text = pattern.removesuffix(_OBEY_CASE).removeprefix(_PREFIX)
    obey_case = pattern.endswith(_OBEY_CASE) or text != text.lower()
    expression = re.compile(rf"(?:.*\.)?{fnmatch.translate(text)}", 0 if obey_case else re.IGNORECASE)
    return expression.match


def _split_entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the text, with its comment, of every assignment of a saved configuration."""
    entry: list[str] = []
    for line in text.splitlines():
        if not line:
            entry = []
            continue
        entry.append(line)
        if line.startswith(_PREFIX):
            yield re.split(r"[=(]", line.removeprefix(_PREFIX), maxsplit=1)[0], "\n".join(entry)


def _without_choice(name: str) -> str:
    """Return ``subtract.kernel.kernelSize`` for ``subtract.kernel['AL'].kernelSize``."""
    return re.sub(r"\[[^]]*\]", "", name)


def show_history(config: Config, name: str) -> str:
    """Return where each value of a field came from.

    Parameters
    ----------
    config : `lsst.pex.config.Config`
        Configuration.
    name : `str`
        Dotted name of the field.

    Raises
    ------
    CommandError
        If there is no such field.
    """
    from lsst.pex.config import history

    from .override_files import ConfigOverrideError, find_field

    try:
        node, field = find_field(config, name.removeprefix(_PREFIX))
    except ConfigOverrideError as error:
        raise CommandError(f"--show history={name}: {error}", 1) from error
    return history.format(node, field)


def show_tasks(config: Config) -> str:
    """Return the subtasks of a configuration and their classes, by dotted name."""
    return "\n".join(["Subtasks:", *(f"{name}: {target}" for name, target in sorted(_iterate_tasks(config)))])


def _iterate_tasks(config: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name in config.keys():  # noqa: SIM118 (iterating over a Config yields values of keys only)
        value = getattr(config, name)
        target = getattr(value, "target", None)
        if isinstance(target, type):
            yield f"{prefix}{name}", f"{target.__module__}.{target.__qualname__}"
            value = value.active if hasattr(value, "active") else value.value  # a choice, or one task
        elif hasattr(value, "active") and hasattr(value.active, "keys"):
            value = value.active
        if hasattr(value, "saveToStream"):
            yield from _iterate_tasks(value, f"{prefix}{name}.")


def show_data(
    science: Iterable[DatasetRef],
    templates: Iterable[DatasetRef],
    scores: Mapping[str, Table] | None = None,
) -> str:
    """Return the data ids of the exposures that were found, a line each, and the scores of candidates.

    Parameters
    ----------
    science, templates : iterable of `lsst.daf.butler.DatasetRef`
        Exposures.
    scores : mapping from `str` to `astropy.table.Table`, optional
        By the label of the science exposure, what its template was chosen from.
    """
    from .pairs import describe_data_id

    lines = [f"id dataRef.dataId = {describe_data_id(ref)}" for ref in science]
    lines += [f"templateId dataRef.dataId = {describe_data_id(ref)}" for ref in templates]
    for label, table in (scores or {}).items():
        lines += ["", f"candidates for {label}, best first:", *_format_scores(table)]
    return "\n".join(lines)


def _format_scores(scores: Table) -> Iterator[str]:
    """Yield a header and a line for each candidate, those that may serve first."""
    yield f"{'visit':>10} {'MJD':>10} {'FWHM/arcsec':>11} {'noise/nJy':>9} {'depth/mag':>9}"
    ranked = sorted(scores, key=lambda row: (row["rank"] < 0, row["rank"], row["visit"]))
    for row in ranked:
        note = "" if row["rank"] > 0 else "  <- template" if row["rank"] == 0 else f"  {row['reason']}"
        yield (
            f"{row['visit']:>10} {row['mjd']:>10.2f} {row['psfFwhm']:>11.3f} {row['skyNoise']:>9.2f} "
            f"{row['predictedDepth']:>9.3f}{note}"
        )
