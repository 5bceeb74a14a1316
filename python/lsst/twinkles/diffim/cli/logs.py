"""Logging of a command to the standard error, beside a progress bar or not."""

from __future__ import annotations

__all__ = (
    "COMMAND_LOGGER",
    "LineFormatter",
    "ProgressDisplay",
    "StderrHandler",
    "current_label",
    "data_id_label",
    "log_to_stderr",
    "set_levels",
)

import contextvars
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

COMMAND_LOGGER = "lsst.imageDifference"
"""Name under which the command speaks: that of its task."""

_LEVELS = {
    "trace": 5,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_NAMES = {"CRITICAL": "FATAL", "WARNING": "WARN"}
_DEFAULTS = (("", "info"), ("lsst.daf.butler", "warn"))
_OWN = "lsst"
"""Root of the loggers of tasks and of the middleware."""

_label: contextvars.ContextVar[str] = contextvars.ContextVar("data_id_label", default="")

type LogLevels = Sequence[tuple[str, str]]


class LineFormatter(logging.Formatter):
    """One line a message, with the names of levels that Gen2 had.

    Parameters
    ----------
    long : `bool`, optional
        Whether to give time, data id and place in the code too.
    """

    default_msec_format = "%s.%03d"

    def __init__(self, *, long: bool = False) -> None:
        short_form = "{name} {level}: {message}"
        long_form = "{level:<5} {asctime} {name} ({data_id})({filename}:{lineno})- {message}"
        super().__init__(long_form if long else short_form, style="{", datefmt="%Y-%m-%dT%H:%M:%S")
        self.datefmt = None
        self.default_time_format = "%Y-%m-%dT%H:%M:%S"

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        record.level = _NAMES.get(record.levelname, record.levelname)
        if not hasattr(record, "data_id"):
            record.data_id = current_label()
        return super().format(record)


class StderrHandler(logging.StreamHandler):
    """Writes to whatever the standard error is at the moment, above a progress bar if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.above_bar: Any = nullcontext

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        with self.above_bar():
            super().emit(record)


def current_label() -> str:
    """Return the data id that is being processed, as text; empty if none is (`str`)."""
    return _label.get()


@contextmanager
def data_id_label(label: str) -> Iterator[None]:
    """Let messages within a ``with`` block carry the data id they are about."""
    token = _label.set(label)
    try:
        yield
    finally:
        _label.reset(token)


def set_levels(levels: LogLevels) -> dict[str, int]:
    """Set the levels of loggers.

    Parameters
    ----------
    levels : sequence of `tuple` [`str`, `str`]
        Component and lower-case level, in order. An empty component stands for
        all of the stack; other libraries are not made to talk by it.

    Returns
    -------
    before : `dict` [`str`, `int`]
        Former levels by name of logger.
    """
    before: dict[str, int] = {}
    for component, level in (*_DEFAULTS, *levels):
        # Gen2 had loggers named for the task alone, Gen3 puts "lsst." before.
        names = [component or _OWN]
        if component and not component.startswith(_OWN):
            names.append(f"{_OWN}.{component}")
        for name in names:
            logger = logging.getLogger(name)
            before.setdefault(name, logger.level)
            logger.setLevel(_LEVELS[level])
    return before


@contextmanager
def log_to_stderr(levels: LogLevels, *, long: bool = False) -> Iterator[StderrHandler]:
    """Write log messages to the standard error within a ``with`` block.

    Parameters
    ----------
    levels : sequence of `tuple` [`str`, `str`]
        See `set_levels`.
    long : `bool`, optional
        Whether lines have time, data id and place.
    """
    root = logging.getLogger()
    handler = StderrHandler()
    handler.setFormatter(LineFormatter(long=long))
    before = set_levels(levels)
    root.addHandler(handler)
    try:
        yield handler
    finally:
        root.removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


class ProgressDisplay:
    """A bar on a terminal; nothing elsewhere, where the log tells how far a run is.

    Parameters
    ----------
    total : `int`
        Number of data ids.
    handler : `logging.Handler`
        That of `log_to_stderr`, whose lines go above the bar.
    """

    def __init__(self, total: int, handler: StderrHandler) -> None:
        from tqdm import tqdm

        self._handler = handler
        self._bar = tqdm(total=total, unit="id", disable=not sys.stderr.isatty(), leave=False)
        if not self._bar.disable:
            handler.above_bar = lambda: tqdm.external_write_mode(file=sys.stderr)

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.close()
        self._handler.above_bar = nullcontext

    def step(self, n_failed: int) -> None:
        """Count one more data id."""
        if n_failed:
            self._bar.set_postfix(failed=n_failed, refresh=False)
        self._bar.update()
