"""The command line of the Gen2 command-line tasks, over Gen3 repositories.

Only words are looked at here: nothing of the middleware is imported, so that
``--help`` answers at once. What each option came to mean in Gen3 is written
down in ``doc/command-line.md``.
"""

from __future__ import annotations

__all__ = ("LOG_LEVELS", "TRUST_HELP", "ConfigOverride", "Gen2ArgumentParser", "Gen2Arguments")

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .argument_files import ArgumentFileError, expand_argument_files
from .gen2_ids import DataIdSyntaxError, parse_id_words

LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal")

DEFAULT_TIMEOUT = 9999.0
"""Seconds that a data id may take in a worker process."""

_SHOW_WORDS = "config[=PATTERN], history=NAME, tasks, data, run"

_EPILOG = """\
--id, --templateId, --config, --configfile, --loglevel and @FILE may be given several times; what they say is
taken from left to right, so that a later override wins. Data ids: KEY=V1^V2 lists values, 1..5 and 1..5:2 are
inclusive ranges, keys combine as a cross product, a bare --id takes everything; for example
"--id visit=230^250..260:2 ccd=R22_S11". Configuration files are Python and are executed. Data ids whose
results an earlier run has stored are kept, so that an interrupted command can be given again. The exit status
is the number of data ids that failed (255 at most), 1 if nothing came of those that were named, 2 for a wrong
command line, 130 after an interrupt. See doc/command-line.md.
"""

TRUST_HELP = "as root, execute configuration files also if somebody else may have written them"


@dataclass(frozen=True)
class ConfigOverride:
    """One configuration override, at its place on the command line."""

    kind: str
    """``"value"`` or ``"file"`` (`str`)."""

    name: str
    """Dotted name of the field, or path of the file (`str`)."""

    value: str = ""
    """Value as text; empty for a file (`str`)."""


@dataclass(frozen=True)
class Gen2Arguments:
    """What a command line asks for."""

    repo: str
    """Input repository: a directory, a butler.yaml or a URI (`str`)."""

    output: str | None
    """Directory of the output repository (`str` or `None`)."""

    rerun: str | None
    """Name given with ``--rerun`` for the output (`str` or `None`)."""

    calib: str | None
    """Directory given with ``--calib``; it has no use in Gen3 (`str` or `None`)."""

    ids: tuple[dict[str, str], ...]
    """Data ids to process, values not cast yet (`tuple` [`dict`])."""

    template_ids: tuple[dict[str, str], ...]
    """Data ids of the template (`tuple` [`dict`])."""

    overrides: tuple[ConfigOverride, ...]
    """Configuration overrides in order (`tuple` [`ConfigOverride`])."""

    trust_config: bool
    """Whether root executes override files that others may have written (`bool`)."""

    show: tuple[str, ...]
    """Words of ``--show`` (`tuple` [`str`])."""

    log_levels: tuple[tuple[str, str], ...]
    """Pairs of component (empty for all) and lower-case level (`tuple`)."""

    long_log: bool
    processes: int
    timeout: float | None
    """Seconds a data id may take; `None` if the option was not given (`float` or `None`)."""

    do_raise: bool
    no_exit: bool
    clobber_output: bool
    clobber_config: bool
    no_backup_config: bool
    clobber_versions: bool
    no_versions: bool
    profile: str | None
    debug: bool

    @property
    def show_only(self) -> bool:
        """Whether to quit after showing (`bool`)."""
        return bool(self.show) and "run" not in self.show


class Gen2ArgumentParser:
    """Parser of the command line of a Gen2 command-line task.

    Parameters
    ----------
    prog : `str`
        Name of the command.
    description : `str`
        What the command does, for ``--help``.
    template_ids : `bool`, optional
        Whether the command takes ``--templateId``.
    """

    def __init__(self, prog: str, description: str, *, template_ids: bool = True) -> None:
        self._parser = argparse.ArgumentParser(
            prog=prog,
            usage=f"{prog} REPO [options]",
            description=description,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_data_options(self._parser, template_ids=template_ids)
        _add_config_options(self._parser)
        _add_run_options(self._parser)
        _add_guard_options(self._parser)

    def parse(self, arguments: Sequence[str]) -> Gen2Arguments:
        """Parse the words of a command line.

        Parameters
        ----------
        arguments : `~collections.abc.Sequence` [`str`]
            Words after the name of the command.

        Returns
        -------
        parsed : `Gen2Arguments`
            What they ask for.

        Raises
        ------
        SystemExit
            With status 0 after ``--help``, 2 (1 for an unknown word of
            ``--show``) after a message about a wrong command line.
        """
        self._require_input(arguments)
        try:
            words = expand_argument_files(arguments)
            namespace = self._parser.parse_args(words)
            return self._check(namespace)
        except (ArgumentFileError, DataIdSyntaxError) as error:
            self.error(str(error))

    def error(self, message: str, status: int = 2) -> NoReturn:
        """Write a message to the standard error and leave with a status."""
        self._parser.exit(status, f"{self._parser.prog}: error: {message}\n")

    def _require_input(self, arguments: Sequence[str]) -> None:
        if arguments and not arguments[0].startswith(("-", "@")):
            return
        if list(arguments) in (["-h"], ["--help"]):
            self._parser.print_help()
            self._parser.exit()
        self._parser.print_help(sys.stderr)
        self.error("Must specify input as first argument")

    def _check(self, namespace: argparse.Namespace) -> Gen2Arguments:
        repo = _resolve_input(namespace.repo)
        if repo is None:
            self.error(
                f"input {namespace.repo!r} not found: it must be the directory of a Butler repository, "
                "a butler.yaml or a URI (a relative path starts at $PIPE_INPUT_ROOT where that is set)"
            )
        _check_show_words(self, namespace.show or ())
        show_only = bool(namespace.show) and "run" not in namespace.show
        output = _join_root("PIPE_OUTPUT_ROOT", namespace.output)
        if namespace.output and namespace.rerun:
            self.error("cannot specify both --output and --rerun; give one of them")
        if not output and not namespace.rerun and not show_only:
            self.error("no output directory specified; give one with --output DIR or --rerun NAME")
        if namespace.clobber_output:
            if not output and not namespace.rerun:
                self.error("--clobber-output is only valid with --output or --rerun")
            if output and _same_place(output, repo):
                self.error("--clobber-output is not valid when the output is the input repository")
        values = {
            key: value for key, value in vars(namespace).items() if key not in ("repo", "output", "calib")
        }
        values.setdefault("template_ids", ())
        for name in ("ids", "template_ids", "overrides", "show", "log_levels"):
            values[name] = tuple(values[name] or ())
        calib = _join_root("PIPE_CALIB_ROOT", namespace.calib)
        return Gen2Arguments(repo=repo, output=output, calib=calib, **values)


def _add_data_options(parser: argparse.ArgumentParser, *, template_ids: bool) -> None:
    parser.add_argument("repo", metavar="REPO", help="input Butler repository; it is never written to")
    group = parser.add_argument_group("data")
    group.add_argument(
        "--id",
        dest="ids",
        nargs="*",
        metavar="KEY=V1[^V2...]",
        action=_DataIdAction,
        help="science exposures, e.g. --id visit=230^240..250:2 ccd=R22_S11",
    )
    if template_ids:
        group.add_argument(
            "--templateId",
            dest="template_ids",
            nargs="*",
            metavar="KEY=V1[^V2...]",
            action=_DataIdAction,
            help="template exposure, e.g. --templateId visit=250 (detector as in --id)",
        )
    group.add_argument("--output", metavar="DIR", help="output repository, made if it is not there")
    group.add_argument(
        "--rerun",
        metavar="[IN:]OUT",
        help="output repository REPO/rerun/OUT; with IN: read REPO/rerun/IN",
    )
    group.add_argument("--calib", metavar="DIR", help="accepted and ignored: Gen3 keeps calibrations in REPO")


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("configuration")
    group.add_argument(
        "-c",
        "--config",
        dest="overrides",
        nargs="+",
        metavar="NAME=VALUE",
        action=_ConfigValueAction,
        help="override fields, e.g. -c detection.thresholdValue=5.5",
    )
    group.add_argument(
        "-C",
        "--configfile",
        "--config-file",
        dest="overrides",
        nargs="+",
        metavar="FILE",
        action=_ConfigFileAction,
        help="Python files that override the variable config",
    )
    group.add_argument(
        "--layout",
        dest="overrides",
        choices=("images", "afw"),
        action=_LayoutAction,
        help="layout of image files: that of lsst.images, or of lsst.afw, which the LSST stack's "
        "ExposureF.readFits opens; short for -c datasets.layout=...",
    )
    group.add_argument("--trust-config", action="store_true", help=TRUST_HELP)
    group.add_argument(
        "--show",
        nargs="+",
        action="extend",
        metavar="WHAT",
        help=f"print and quit unless 'run' is among the words: {_SHOW_WORDS}",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("running")
    group.add_argument(
        "-L",
        "--loglevel",
        dest="log_levels",
        nargs="+",
        metavar="[COMPONENT=]LEVEL",
        action=_LogLevelAction,
        help=f"logging level, one of {' '.join(LOG_LEVELS)}",
    )
    group.add_argument(
        "--longlog", dest="long_log", action="store_true", help="log with time, component, data id, place"
    )
    group.add_argument(
        "-j", "--processes", type=_positive_int, default=1, metavar="N", help="processes (default 1)"
    )
    group.add_argument(
        "-t",
        "--timeout",
        type=_positive_float,
        metavar="SECONDS",
        help=f"longest time for one data id in a worker process (default {DEFAULT_TIMEOUT:g}, none at -j 1)",
    )
    group.add_argument(
        "--doraise", dest="do_raise", action="store_true", help="stop at the first error, with its traceback"
    )
    group.add_argument(
        "--noExit", dest="no_exit", action="store_true", help="exit with status 0 even if data ids failed"
    )
    group.add_argument("--profile", metavar="FILE", help="write a cProfile dump")
    group.add_argument("--debug", action="store_true", help="import the module debug first (lsstDebug)")


def _add_guard_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output guards")
    for option, text in (
        ("--clobber-output", "delete the output repository first"),
        (
            "--clobber-config",
            "replace the configuration stored in the output (the old one is kept as a backup)",
        ),
        ("--no-backup-config", "do not keep a backup; implies --clobber-config"),
        ("--clobber-versions", "replace the package versions stored in the output"),
        ("--no-versions", "neither check nor store package versions"),
    ):
        group.add_argument(option, action="store_true", help=text)


class _DataIdAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        try:
            data_ids = parse_id_words(values)
        except DataIdSyntaxError as error:
            raise DataIdSyntaxError(f"argument {option_string}: {error}") from error
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or []) + data_ids)


class _ConfigValueAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        overrides = []
        for word in values:
            name, equals, value = word.partition("=")
            if not equals or not name:
                parser.error(f"{option_string} value {word!r} must be in form name=value")
            overrides.append(ConfigOverride("value", name, value))
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or []) + overrides)


class _ConfigFileAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from .override_files import find_override_file

        files = []
        for path in values:
            if (file := find_override_file(path)) is None:
                parser.error(f"cannot find configuration file {path!r}")
            else:
                files.append(ConfigOverride("file", file))
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or []) + files)


class _LayoutAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        override = ConfigOverride("value", "datasets.layout", values)
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), override])


class _LogLevelAction(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        pairs = []
        for word in values:
            component, _, level = word.rpartition("=")
            if level.lower() not in LOG_LEVELS:
                parser.error(f"log level {word!r} not in {list(LOG_LEVELS)} (or COMPONENT=LEVEL)")
            pairs.append((component, level.lower()))
        setattr(namespace, self.dest, (getattr(namespace, self.dest) or []) + pairs)


def _check_show_words(parser: Gen2ArgumentParser, words: Sequence[str]) -> None:
    for word in words:
        name, equals, value = word.partition("=")
        known = name == "config" or (name == "history" and value) or (word in ("tasks", "data", "run"))
        if not known or (name == "config" and equals and not value):
            parser.error(f"Unknown value for show: {word!r} (choose from {_SHOW_WORDS})", status=1)


def _resolve_input(path: str) -> str | None:
    if "://" in path:
        return path
    joined = _join_root("PIPE_INPUT_ROOT", path)
    return joined if joined and (Path(joined).is_dir() or _is_configuration(joined)) else None


def _is_configuration(path: str) -> bool:
    return path.endswith((".yaml", ".json")) and Path(path).is_file()


def _join_root(variable: str, path: str | None) -> str | None:
    """Make a path absolute, starting at the directory an environment variable names."""
    if path is not None and "://" in path:
        return path
    root = os.environ.get(variable)
    if not path:
        return str(Path(root).absolute()) if root else None
    return str((Path(root or "") / Path(path).expanduser()).absolute())


def _same_place(first: str, second: str) -> bool:
    return Path(first).resolve() == Path(second).resolve()


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{value} is not greater than 0")
    return value
