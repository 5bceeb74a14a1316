"""The command ``runPipeline.py``: ``pipetask run`` with worker processes that stay."""

from __future__ import annotations

__all__ = ("main",)

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from .gen2_parser import TRUST_HELP

if TYPE_CHECKING:
    import click

    from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

    from .graph_workers import WorkerGraphExecutor

_PROG = "runPipeline.py"

_USAGE = f"""\
Usage: {_PROG} -b REPO -i COLLECTION -o COLLECTION -p PIPELINE [-d QUERY] [-j N] [options]

Build the quantum graph of a pipeline and execute it, as "pipetask run" does, whose options all
hold here ("pipetask run --help" lists them; those of "pipetask" itself, such as --log-level, may
stand among them). The difference is in -j: the N worker processes stay, so that tasks are
imported and the repository is opened once a process and not once a quantum.

  -b REPO        repository                     -i, -o         input and output collection
  -p FILE        pipeline                       -d QUERY       which visits
  -c LABEL:NAME=VALUE, -C LABEL:FILE            configuration (a FILE is Python and is executed)
  -j N           worker processes (1)           --timeout S    longest time for a quantum
  --register-dataset-types                      register those that are new to the repository
  --trust-config                                let root execute a FILE that others may have written

Not to be had here: --pdb, and --start-method other than spawn.

A run that was interrupted goes on with the same -o or --output-run and
--extend-run --skip-existing --clobber-outputs.
"""

_MISSING = (
    f"{_PROG}: error: lsst-ctrl-mpexec is not installed; "
    "install it with pip install 'lsst-twinkles-diffim[pipeline]'"
)

_DEFAULT_TIMEOUT_S = 30 * 86400


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of `str`, optional
        Arguments; those of the process by default.

    Returns
    -------
    status : `int`
        0 if all quanta were executed, 1 if not, 2 for a wrong command line.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or "--help" in words or "-h" in words:
        print(_USAGE, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    try:
        command = _make_command()
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lsst.ctrl"):
            print(_MISSING, file=sys.stderr)
            return 1
        raise
    try:
        command.main(words, prog_name=_PROG)
    except SystemExit as stop:  # click never returns
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return 0


def _make_command() -> click.Command:
    """Return the command with the options of ``pipetask`` and ``pipetask run``."""
    import click

    from lsst.ctrl.mpexec.cli.opt import run_options
    from lsst.ctrl.mpexec.cli.utils import PipetaskCommand
    from lsst.daf.butler.cli import opt
    from lsst.daf.butler.cli.utils import catch_and_exit

    command: Any = catch_and_exit(_run)
    for decorate in (
        opt.log_level_option(),
        opt.long_log_option(),
        opt.log_file_option(),
        opt.log_tty_option(),
        opt.log_label_option(),
        click.option("--trust-config", is_flag=True, help=TRUST_HELP),
        run_options(),
        click.command(_PROG, cls=PipetaskCommand),
    ):
        command = decorate(command)
    return command


def _run(ctx: click.Context, **kwargs: Any) -> None:
    """Build the graph, prepare the run, execute."""
    import click

    from lsst.ctrl.mpexec.cli import script
    from lsst.ctrl.mpexec.cli.utils import collect_pipeline_actions
    from lsst.ctrl.mpexec.showInfo import ShowInfo
    from lsst.utils.threads import disable_implicit_threading

    log_levels = _start_log(kwargs)
    kwargs = collect_pipeline_actions(ctx, **kwargs)
    _refuse_what_workers_cannot(kwargs)
    trust = kwargs.pop("trust_config")
    if not trust:
        _refuse_foreign_files(kwargs)
    if not kwargs["enable_implicit_threading"]:
        disable_implicit_threading()
    show = ShowInfo(kwargs.pop("show", []))
    graph = _build_graph(kwargs, show, trust=trust)
    if graph is None:
        return
    if show.unhandled:
        raise click.UsageError(f"unknown words of --show: {', '.join(show.unhandled)}")
    if show.handled:
        return
    # Registers dataset types and writes what is common to all quanta.
    script.run(graph, **{**kwargs, "init_only": True})
    if not kwargs["init_only"]:
        _execute(graph, kwargs, log_levels)


def _start_log(kwargs: dict[str, Any]) -> list[tuple[str | None, str]]:
    """Start logging as ``pipetask`` does; return the levels."""
    from lsst.daf.butler.cli.cliLog import CliLog

    levels = kwargs.pop("log_level", None) or {}
    names = ("long_log", "log_tty", "log_file", "log_label")
    long_log, log_tty, log_file, log_label = (kwargs.pop(name, None) for name in names)
    CliLog.initLog(bool(long_log), bool(log_tty), tuple(log_file or ()), log_label)
    pairs = list(levels.items()) if isinstance(levels, dict) else list(levels)
    CliLog.setLogLevels(pairs)
    return pairs


def _refuse_what_workers_cannot(kwargs: dict[str, Any]) -> None:
    import click

    if kwargs.get("pdb"):
        raise click.UsageError("--pdb needs a terminal, which workers lack; use pipetask run")
    if kwargs.get("start_method") not in (None, "spawn"):
        raise click.UsageError(f"--start-method must be spawn, got {kwargs['start_method']}")


def _refuse_foreign_files(kwargs: dict[str, Any]) -> None:
    """Refuse configuration files, a stored graph, and the module of --debug, that root should not execute."""
    import click

    from .trust import UntrustedFileError, find_module_file, require_trust_of_uri

    files = [action.value for action in kwargs["pipeline_actions"] if action.action == "configfile"]
    if kwargs["qgraph"]:  # holds the configurations of its tasks, as Python
        files.append(kwargs["qgraph"])
    if kwargs["debug"] and (module := find_module_file("debug")):
        files.append(module)
    for file in files:
        try:
            require_trust_of_uri(file)
        except UntrustedFileError as error:
            raise click.UsageError(str(error)) from error
        except OSError as error:
            raise click.UsageError(f"cannot read {file}: {error.strerror}") from error


def _build_graph(kwargs: dict[str, Any], show: Any, *, trust: bool) -> PredictedQuantumGraph | None:
    """Build pipeline and graph; `None` if the pipeline was to be shown only."""
    import click

    from lsst.ctrl.mpexec.cli import script

    from .trust import UntrustedFileError, guard_pipelines

    try:
        with guard_pipelines(trust=trust):
            pipeline = script.build(**kwargs, show=show)
            if show.handled and not show.unhandled:
                return None
            graph = script.qgraph(pipeline, for_execution=True, **kwargs, show=show)
    except UntrustedFileError as error:
        raise click.UsageError(str(error)) from error
    if graph is None:
        raise click.ClickException("the quantum graph is empty; messages above say why")
    return graph


def _execute(
    graph: PredictedQuantumGraph, kwargs: dict[str, Any], log_levels: list[tuple[str | None, str]]
) -> None:
    """Execute a graph whose run has been prepared."""
    from lsst.daf.butler import Butler
    from lsst.resources import ResourcePath
    from lsst.utils.timer import profile

    run = graph.header.output_run
    with Butler.from_config(kwargs["butler_config"], writeable=True, run=run) as butler:
        executor = _make_executor(butler, kwargs, log_levels)
        try:
            with profile(kwargs["profile"]) if kwargs.get("profile") else nullcontext():
                executor.execute(graph)
        finally:
            if kwargs.get("summary"):
                text = executor.getReport().model_dump_json(exclude_none=True, indent=2)
                ResourcePath(kwargs["summary"]).write(text.encode())


def _make_executor(
    butler: Any, kwargs: dict[str, Any], log_levels: list[tuple[str | None, str]]
) -> WorkerGraphExecutor:
    """Return the executor that the options ask for."""
    import astropy.units as u

    from lsst.pipe.base import ExecutionResources, TaskFactory
    from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

    from .graph_workers import WorkerGraphExecutor

    extend = kwargs["extend_run"]
    quantum_executor = SingleQuantumExecutor(
        butler=butler,
        task_factory=TaskFactory(),
        skip_existing=bool(kwargs["skip_existing"] or extend),
        skip_existing_in=tuple(kwargs["skip_existing_in"] or ()),
        clobber_outputs=bool(kwargs["clobber_outputs"] and extend),
        enable_lsst_debug=kwargs["debug"],
        resources=ExecutionResources(
            num_cores=kwargs["cores_per_quantum"],
            max_mem=kwargs["memory_per_quantum"],
            default_mem_units=u.MB,
        ),
        raise_on_partial_outputs=kwargs["raise_on_partial_outputs"],
    )
    return WorkerGraphExecutor(
        num_proc=kwargs["processes"],
        timeout=kwargs["timeout"] or _DEFAULT_TIMEOUT_S,
        quantum_executor=quantum_executor,
        fail_fast=kwargs["fail_fast"],
        execution_graph_fixup=_make_fixup(kwargs["graph_fixup"]),
        log_levels=log_levels,
    )


def _make_fixup(name: str | None) -> Any:
    """Return the object that adds an order among quanta, `None` if there is no name of one."""
    import click

    from lsst.utils import doImportType

    if not name:
        return None
    try:
        return doImportType(name)()
    except Exception as error:
        raise click.UsageError(f"--graph-fixup {name}: {error}") from error
