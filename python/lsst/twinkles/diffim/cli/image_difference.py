"""The command ``imageDifference.py``: the Gen2 command line over a Gen3 repository."""

from __future__ import annotations

__all__ = ("main",)

import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from .allocation import import_quickly, prepare_process
from .gen2_parser import DEFAULT_TIMEOUT, Gen2ArgumentParser
from .logs import COMMAND_LOGGER, ProgressDisplay, log_to_stderr
from .places import (
    CommandError,
    Places,
    find_places,
    is_repository,
    open_input,
    refuse_foreign_repository,
    remove_output,
)

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from ..pipeline.output_repository import OutputRepository
    from ..tasks.image_difference import ImageDifferenceConfig
    from .gen2_parser import Gen2Arguments
    from .logs import StderrHandler
    from .pair_reader import PairReader
    from .pairs import ExposurePair, PairSelection
    from .runner import Outcome
    from .template_choice import TemplateChooser

_LOG = logging.getLogger(COMMAND_LOGGER)
_PROG = "imageDifference.py"
_DESCRIPTION = """\
Subtract a template from each of a number of calibrated exposures: PSF-matched difference image, noise
whitened, and a catalogue of the sources in it. Exposures are read from REPO, results go to a repository
of their own."""

INTERRUPTED = 128 + signal.SIGINT
MAX_STATUS = 255


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of `str`, optional
        Arguments; those of the process by default.

    Returns
    -------
    status : `int`
        Number of data ids that failed, 255 at most; 1 too if nothing could be
        done; 2 for a wrong command line or configuration; 130 after an
        interrupt.

    Raises
    ------
    SystemExit
        After ``--help``, and for a command line that cannot be parsed.
    Exception
        With ``--doraise``, the first error.
    """
    args = Gen2ArgumentParser(_PROG, _DESCRIPTION).parse(sys.argv[1:] if argv is None else argv)
    with log_to_stderr(args.log_levels, long=args.long_log) as handler, _terminate_as_exit():
        try:
            status = _Command(args, handler).run()
            sys.stdout.flush()
            return status
        except CommandError as error:
            print(f"{_PROG}: error: {error}", file=sys.stderr)
            return error.status
        except KeyboardInterrupt:
            print(
                f"{_PROG}: interrupted; what was finished is kept, nothing is half-written. "
                "The same command goes on where this one stopped.",
                file=sys.stderr,
            )
            return INTERRUPTED
        except BrokenPipeError:
            # "--show config | head" has seen enough.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE


class _Command:
    """The steps of one run of the command."""

    def __init__(self, args: Gen2Arguments, handler: StderrHandler) -> None:
        self.args = args
        self.handler = handler

    def run(self) -> int:
        """Do what the arguments ask for; return the exit status."""
        args = self.args
        places = find_places(args)
        _heed_odd_options(args)
        with import_quickly():
            config = _make_config(args)
            if not args.show_only:
                importlib.import_module(".pair_work", __package__)
        _show_config_words(args, config)
        if args.show_only and "data" not in args.show:
            return 0
        with closing(_open_input(places)) as butler:
            chooser = _make_chooser(config, places, butler)
            selection = _select(args, butler, places, config, chooser)
            if "data" in args.show:
                from .show import show_data

                print(show_data(selection.science, selection.templates, selection.scores))
            if args.show_only:
                return 0
            return self._process(config, places, butler, selection, chooser)

    def _process(
        self,
        config: ImageDifferenceConfig,
        places: Places,
        butler: Butler,
        selection: PairSelection,
        chooser: TemplateChooser,
    ) -> int:
        """Open the output, process the pairs, tell how many failed."""
        outcomes = list(self._refuse(selection))
        if not selection.pairs:
            if not outcomes:
                _LOG.warning(
                    "Not running the task because there is no data to process; "
                    'you may preview data using "--show data"'
                )
            return self._finish(outcomes, asked=selection.named)
        with self._open_reader(places, butler, selection) as reader:
            output = self._initialize(config, places, butler, selection)
            if output is None:
                return 1
            chooser.save()
            with closing(output.butler), _profile(self.args):
                outcomes += self._run_pairs(config, places, reader, output, selection)
                return self._finish(outcomes, asked=True, output=output)

    @contextmanager
    def _open_reader(
        self, places: Places, butler: Butler, selection: PairSelection
    ) -> Iterator[PairReader | None]:
        """Give what reads exposures in this process, `None` if others do the work.

        It has begun to read the first pair where no earlier run can have done it.
        """
        if self.args.processes > 1 or self.args.timeout is not None:
            yield None
            return
        from .pair_reader import PairReader

        prepare_process()
        with PairReader(butler) as reader:
            if self.args.clobber_output or not is_repository(places.output):
                reader.read_ahead(selection.pairs[0])
            yield reader

    def _initialize(
        self, config: ImageDifferenceConfig, places: Places, butler: Butler, selection: PairSelection
    ) -> OutputRepository | None:
        """Return the output repository; `None` after telling why there is none."""
        try:
            return _open_output(self.args, config, places, butler, selection)
        except CommandError:
            raise
        except Exception as error:
            if self.args.do_raise:
                raise
            from .pair_work import explain

            text, traceback = explain(error)
            _LOG.critical("Failed in task initialization: %s", text, exc_info=traceback)
            return None

    def _refuse(self, selection: PairSelection) -> Iterator[Outcome]:
        """Report the data ids that have no usable template."""
        from ..tasks.errors import UnsuitableTemplateError
        from .runner import Outcome

        for label, reason in selection.refused.items():
            error = UnsuitableTemplateError(reason)
            if self.args.do_raise:
                raise error
            _LOG.critical("Failed on dataId=%s: %s", label, reason)
            yield Outcome(label, "failed", reason, error=error)

    def _run_pairs(
        self,
        config: ImageDifferenceConfig,
        places: Places,
        reader: PairReader | None,
        output: OutputRepository,
        selection: PairSelection,
    ) -> Iterator[Outcome]:
        """Process the pairs that no earlier run has finished."""
        from .compile_ahead import compile_ahead
        from .pair_work import PairSetup, PairWork, digest_config
        from .runner import run_jobs

        args = self.args
        digest = digest_config(config)
        done = self._find_done(output, selection.pairs, digest)
        yield from done
        labels = {outcome.label for outcome in done}
        pairs = [pair for pair in selection.pairs if pair.label not in labels]
        if not pairs:
            return
        setup = PairSetup(places.input, output.root, config, digest, args.do_raise)
        make_work = setup if reader is None else partial(PairWork, setup, reader, output)
        timeout = DEFAULT_TIMEOUT if args.timeout is None and args.processes > 1 else args.timeout
        n_failed = 0
        results = run_jobs(
            make_work, pairs, processes=args.processes, timeout=timeout, log_levels=args.log_levels
        )
        display = ProgressDisplay(len(pairs), self.handler)
        with compile_ahead(), display as progress, closing(results):
            for number, outcome in enumerate(results, start=1):
                if outcome.error is not None and args.do_raise:
                    raise outcome.error
                n_failed += outcome.kind == "failed"
                _report(outcome, number, len(pairs))
                progress.step(n_failed)
                yield outcome

    def _find_done(
        self, output: OutputRepository, pairs: Sequence[ExposurePair], digest: str
    ) -> list[Outcome]:
        """Return an outcome for each pair whose results are there."""
        from .pair_work import find_done
        from .runner import Outcome

        # Other versions of packages may give other results: all is done anew.
        if self.args.clobber_versions:
            return []
        done = find_done(output, pairs, digest)
        for pair in done:
            _LOG.info("dataId=%s was done by an earlier run with the same inputs; kept.", pair.label)
        return [Outcome(pair.label, "skipped") for pair in done]

    def _finish(
        self, outcomes: Sequence[Outcome], *, asked: bool, output: OutputRepository | None = None
    ) -> int:
        """Sum up; return the exit status."""
        count = {
            kind: sum(outcome.kind == kind for outcome in outcomes)
            for kind in ("done", "skipped", "no work", "failed")
        }
        if outcomes:
            parts = [f"{number} {kind}" for kind, number in count.items() if number]
            where = ""
            if output is not None and count["done"] + count["skipped"] > 0:
                where = f" The results are in {output.root}, collection {output.run}."
            _LOG.info("Of %d data ids: %s.%s", len(outcomes), ", ".join(parts), where)
        n_failed = count["failed"]
        if n_failed == 0 and asked and count["done"] + count["skipped"] == 0:
            n_failed = 1
        if n_failed and self.args.no_exit:
            _LOG.error("%d dataRefs failed; not exiting as --noExit was set", n_failed)
            return 0
        return min(n_failed, MAX_STATUS)


def _report(outcome: Outcome, number: int, total: int) -> None:
    """Log how far the run is."""
    how = {"done": "is done", "no work": "had nothing to do", "failed": "failed"}[outcome.kind]
    detail = f": {outcome.message}" if outcome.kind == "done" else ""
    _LOG.info("[%d/%d] dataId=%s %s in %.1f s%s", number, total, outcome.label, how, outcome.seconds, detail)


def _heed_odd_options(args: Gen2Arguments) -> None:
    """Warn of --calib, import the module debug."""
    if args.calib:
        _LOG.warning("--calib %s is ignored: a Gen3 repository keeps its calibrations itself.", args.calib)
    if args.debug:
        from .trust import UntrustedFileError, import_trusted

        try:
            found = import_trusted("debug", trust=args.trust_config)
        except UntrustedFileError as error:
            raise CommandError(str(error)) from error
        if not found:
            _LOG.warning("No 'debug' module found; put a debug.py on PYTHONPATH.")


def _make_config(args: Gen2Arguments) -> ImageDifferenceConfig:
    """Make the configuration: defaults, Twinkles overrides, then the command line from left to right."""
    from lsst.pex.config import FieldValidationError

    from ..tasks.twinkles_image_difference import TwinklesImageDifferenceTask
    from .override_files import ConfigOverrideError, apply_overrides

    config = TwinklesImageDifferenceTask.ConfigClass()
    try:
        apply_overrides(config, args.overrides, trust=args.trust_config)
        config.validate()
    except (ConfigOverrideError, FieldValidationError) as error:
        raise CommandError(str(error).split("\nFor more information", maxsplit=1)[0]) from error
    config.freeze()
    return config


def _show_config_words(args: Gen2Arguments, config: ImageDifferenceConfig) -> None:
    """Print what --show asks for of the configuration."""
    from . import show

    for word in args.show:
        name, _, value = word.partition("=")
        if name == "config":
            print(show.show_config(config, value))
        elif name == "history":
            print(show.show_history(config, value))
        elif name == "tasks":
            print(show.show_tasks(config))


def _open_input(places: Places) -> Butler:
    from ..pipeline.repository import RepositoryError

    try:
        return open_input(places.input)
    except RepositoryError as error:
        raise CommandError(str(error)) from error


def _make_chooser(config: ImageDifferenceConfig, places: Places, butler: Butler) -> TemplateChooser:
    """Return what chooses templates; figures that an earlier run left in the output are used."""
    from .template_choice import TemplateChooser

    return TemplateChooser(butler, config, places.output)


def _select(
    args: Gen2Arguments,
    butler: Butler,
    places: Places,
    config: ImageDifferenceConfig,
    chooser: TemplateChooser,
) -> PairSelection:
    """Find the exposures and choose their templates."""
    from ..pipeline.data_ids import DataIdError
    from .pairs import select_pairs

    names = config.datasets
    if names.template:
        from .template_datasets import pair_with_templates

        return pair_with_templates(butler, args.ids, names, place=places.input)
    if not args.template_ids and not args.show_only and not chooser.finds_candidates:
        raise CommandError(
            "no template specified; give one with --templateId KEY=VALUE, e.g. visit=250, or have one chosen "
            "(-c selectTemplate.name=psf)"
        )
    try:
        return select_pairs(
            butler,
            args.ids,
            args.template_ids,
            place=places.input,
            chooser=chooser,
            exposure=names.exposure,
        )
    except DataIdError as error:
        raise CommandError(str(error)) from error


def _open_output(
    args: Gen2Arguments,
    config: ImageDifferenceConfig,
    places: Places,
    butler: Butler,
    selection: PairSelection,
) -> OutputRepository:
    """Open the output repository and compare configuration and versions with those of earlier runs."""
    from ..pipeline.guards import guard_config, guard_versions
    from ..pipeline.output_repository import open_output_repository

    if args.clobber_output:
        remove_output(places)
    assert places.output is not None, "the parser asks for one"
    refuse_foreign_repository(places.output)
    pairs = selection.pairs
    output = open_output_repository(
        places.output,
        butler,
        coadd_name=config.coaddName,
        names=config.datasets.outputs(),
        refs={ref.id: ref for pair in pairs for ref in (pair.science, pair.template)}.values(),
        collections=sorted({pair.science.run for pair in pairs}),
    )
    backup = not args.no_backup_config
    try:
        guard_config(output, config, clobber=args.clobber_config or not backup, backup=backup)
        guard_versions(output, clobber=args.clobber_versions, backup=backup, skip=args.no_versions)
    except BaseException:
        output.butler.close()
        raise
    return output


@contextmanager
def _profile(args: Gen2Arguments) -> Iterator[None]:
    """Write a cProfile dump of what runs in this process, if asked for."""
    if not args.profile:
        yield
        return
    import cProfile

    if args.processes > 1:
        _LOG.warning("--profile sees this process only, not the workers of -j %d; use -j 1.", args.processes)
    profile = cProfile.Profile()
    start = time.monotonic()
    profile.enable()
    try:
        yield
    finally:
        profile.disable()
        try:
            profile.dump_stats(args.profile)
            _LOG.info("Profile of %.1f s is in %s.", time.monotonic() - start, args.profile)
        except OSError as error:
            _LOG.error("Cannot write the profile to %s: %s", args.profile, error.strerror)


@contextmanager
def _terminate_as_exit() -> Iterator[None]:
    """Let SIGTERM clean up as an interrupt does, where that can be had (in the main thread)."""

    def leave(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
