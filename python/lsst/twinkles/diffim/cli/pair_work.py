"""Process one pair of exposures of a repository: read, subtract, store."""

from __future__ import annotations

__all__ = ("PairSetup", "PairWork", "digest_config", "explain", "find_done")

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lsst.daf.butler import DataCoordinate, DatasetRef
from lsst.pipe.base import AlgorithmError, NoWorkFound, Struct, TaskMetadata

from ..adapters.psfs import InvalidPsfError
from ..pipeline.guards import ConfigMismatchError, VersionMismatchError
from ..pipeline.ids import DiaSourceIdFactory
from ..pipeline.output_repository import OUTPUTS, OutputRepository, put_outputs
from ..pipeline.provenance import describe_template
from ..pipeline.repository import RepositoryError, open_butler
from ..pipeline.staging import OutputWriteError
from ..tasks.difference_image import score_exposure
from ..tasks.errors import BadSubtractionError
from ..tasks.twinkles_image_difference import TwinklesImageDifferenceTask
from .allocation import prepare_process
from .logs import COMMAND_LOGGER, data_id_label
from .pair_reader import PairReader
from .pairs import ExposurePair
from .places import open_input
from .runner import Outcome, RunnerError

if TYPE_CHECKING:
    from lsst.images import VisitImage

    from ..tasks.image_difference import ImageDifferenceConfig

_LOG = logging.getLogger(COMMAND_LOGGER)

_SENTENCES = (
    AlgorithmError,
    ConfigMismatchError,
    InvalidPsfError,
    OutputWriteError,
    RepositoryError,
    RunnerError,
    VersionMismatchError,
)
"""Errors whose message says all: a traceback would only hide it."""

_RUN_KEY = "run"


@dataclass(frozen=True)
class PairSetup:
    """All that a process needs to work on pairs."""

    input: str
    """Directory of the input repository (`str`)."""

    output: Path
    """Directory of the output repository, which is there (`pathlib.Path`)."""

    config: ImageDifferenceConfig
    """Configuration of the task (`ImageDifferenceConfig`)."""

    digest: str
    """Short name of the configuration, see `digest_config` (`str`)."""

    do_raise: bool = False
    """Whether errors are somebody else's to report (`bool`)."""

    def __call__(self) -> PairWork:
        """Open the repositories in the process that is to do the work."""
        prepare_process()
        with ExitStack() as resources:
            reader = resources.enter_context(PairReader(resources.enter_context(open_input(self.input))))
            butler = resources.enter_context(open_butler(self.output, writeable=True))
            output = OutputRepository(
                self.output, butler, self.config.coaddName, self.config.datasets.outputs()
            )
            work = PairWork(self, reader, output)
            work.resources = resources.pop_all()
        return work


class PairWork:
    """Works on one pair after the other; a context manager.

    Parameters
    ----------
    setup : `PairSetup`
        What to work with.
    reader : `PairReader`
        Reads the exposures.
    output : `OutputRepository`
        Where the results go.

    Attributes
    ----------
    resources : `contextlib.ExitStack`
        What is closed in the end.
    """

    def __init__(self, setup: PairSetup, reader: PairReader, output: OutputRepository) -> None:
        self._setup = setup
        self._reader = reader
        self._output = output
        self._task = TwinklesImageDifferenceTask(config=setup.config)
        self.resources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.resources.close()

    def __call__(self, pair: ExposurePair) -> Outcome:
        """Process a pair; never raises on account of the data.

        Parameters
        ----------
        pair : `ExposurePair`
            Exposures of the input repository.

        Returns
        -------
        outcome : `Outcome`
            What became of it; an error has been logged.
        """
        start = time.monotonic()
        with data_id_label(pair.label):
            try:
                message = self._process(pair)
                return Outcome(pair.label, "done", message, time.monotonic() - start)
            except NoWorkFound as reason:
                _LOG.warning("Nothing to do for dataId=%s: %s", pair.label, reason)
                return Outcome(pair.label, "no work", str(reason), time.monotonic() - start)
            except Exception as error:
                if not self._setup.do_raise:
                    log_failure(pair.label, error)
                return Outcome(pair.label, "failed", str(error), time.monotonic() - start, error)

    def _process(self, pair: ExposurePair) -> str:
        """Read, run and store; return a few words on the result."""
        science, template = self._reader.read(pair)
        ids = DiaSourceIdFactory(int(pair.data_id["visit"]), int(pair.data_id["detector"]))
        self._task.emptyMetadata()
        try:
            result = self._task.run(science, template, idFactory=ids)
        except BadSubtractionError as error:
            if error.partial_outputs is not None:
                self._store(pair, template, error.partial_outputs, failure=str(error))
                error.partial_outputs = None
            raise
        self._store(pair, template, result)
        return "no detection" if result.diaSources is None else f"{len(result.diaSources)} sources"

    def _store(
        self, pair: ExposurePair, template: VisitImage, result: Struct, failure: str | None = None
    ) -> None:
        """Store the results; with a failure they do not count as done."""
        result.subtractedExposure.templates = [
            describe_template(result.subtractedExposure, template, pair.template)
        ]
        products = self._choose_products(result)
        if pair.scores is not None:
            products["templateScores"] = pair.scores
        metadata = self._describe_run(pair, products)
        if failure is not None:
            metadata[f"{_RUN_KEY}.failure"] = failure
        products["metadata"] = metadata
        put_outputs(
            self._output,
            pair.data_id,
            products,
            inputs=[pair.science, pair.template],
            layout=self._setup.config.datasets.layout,
        )

    def _choose_products(self, result: Struct) -> dict[str, Any]:
        """Return the results that are to be stored, by their name in `OUTPUTS`."""
        config = self._setup.config
        products = {
            "differenceExp": config.doWriteSubtractedExp and result.subtractedExposure,
            "matchedExp": config.doWriteMatchedExp and result.matchedExposure,
            "warpedExp": config.doWriteWarpedExp and result.warpedExposure,
            "scoreExp": config.doWriteScoreExp and score_exposure(result),
            "diaSrc": config.doWriteSources and config.doMeasurement and result.diaSources,
            "kernelSrc": config.doWriteMetrics and result.subtractRes.kernelSources,
            "metrics": config.doWriteMetrics and result.metrics,
            "spatiallySampledMetrics": config.doWriteMetrics and result.spatiallySampledMetrics,
        }
        return {
            name: product
            for name, product in products.items()
            if product is not False and product is not None
        }

    def _describe_run(self, pair: ExposurePair, products: Iterable[str]) -> TaskMetadata:
        """Return the metadata of the task, with what a later run has to know of this one."""
        metadata = self._task.getFullMetadata()
        for key, value in describe_pair(pair, self._setup.digest).items():
            metadata[f"{_RUN_KEY}.{key}"] = value
        metadata[f"{_RUN_KEY}.products"] = sorted(products)
        metadata[f"{_RUN_KEY}.templateVisit"] = int(pair.template.dataId["visit"])
        return metadata


def explain(error: BaseException) -> tuple[str, BaseException | None]:
    """Return what to log of an error: text, and the error itself if its traceback tells more.

    Parameters
    ----------
    error : `BaseException`
        What went wrong.
    """
    if not isinstance(error, _SENTENCES):
        return f"{type(error).__name__}: {error}", error
    return str(error), error if _LOG.isEnabledFor(logging.DEBUG) else None


def log_failure(label: str, error: BaseException) -> None:
    """Log why a data id failed."""
    text, with_traceback = explain(error)
    _LOG.critical("Failed on dataId=%s: %s", label, text, exc_info=with_traceback)


def digest_config(config: ImageDifferenceConfig) -> str:
    """Return a short name for the values and the classes of a configuration (`str`)."""
    # Comments are the documentation of fields, which may change from version to version.
    lines = [line for line in config.saveToString().splitlines() if not line.startswith("#")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def describe_pair(pair: ExposurePair, digest: str) -> dict[str, str]:
    """Return what decides whether results stand for a pair and a configuration."""
    return {"scienceId": str(pair.science.id), "templateId": str(pair.template.id), "configDigest": digest}


def find_done(output: OutputRepository, pairs: Iterable[ExposurePair], digest: str) -> list[ExposurePair]:
    """Return the pairs whose results an earlier run has stored.

    Parameters
    ----------
    output : `OutputRepository`
        Where the results are.
    pairs : iterable of `ExposurePair`
        Pairs that are asked for.
    digest : `str`
        Configuration of this run, see `digest_config`.

    Returns
    -------
    done : `list` [`ExposurePair`]
        Those with all results there, made from the same two datasets with the
        same configuration.
    """
    metadata = _find_all(output, "metadata")
    if not metadata:
        return []
    others = set(OUTPUTS) - {"metadata", "config", "packages"}
    stored = {"metadata": metadata} | {name: _find_all(output, name) for name in others}
    return [pair for pair in pairs if _is_done(output, stored, pair, digest)]


def _find_all(output: OutputRepository, name: str) -> dict[DataCoordinate, DatasetRef]:
    """Return all results of a kind by their data id: one query, where one a data id would take long."""
    refs = output.butler.query_datasets(
        output.dataset_type(name), collections=output.run, find_first=False, limit=None, explain=False
    )
    return {ref.dataId: ref for ref in refs}


def _is_done(
    output: OutputRepository,
    stored: Mapping[str, Mapping[DataCoordinate, DatasetRef]],
    pair: ExposurePair,
    digest: str,
) -> bool:
    ref = stored["metadata"].get(pair.science.dataId)
    if ref is None:
        return False
    try:
        run = output.butler.get(ref).to_dict()[_RUN_KEY]
        same = all(run[key] == value for key, value in describe_pair(pair, digest).items())
        return (
            same
            and "failure" not in run
            and all(pair.science.dataId in stored[name] for name in run["products"])
        )
    except (OSError, KeyError, ValueError):
        return False
