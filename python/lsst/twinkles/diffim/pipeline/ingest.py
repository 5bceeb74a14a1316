"""Add calibrated exposures to a repository."""

from __future__ import annotations

__all__ = ("ExposureExistsError", "ExposureIngester", "ingest_visit_image")

import logging
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from lsst.daf.butler import Butler, CollectionType, DataCoordinate, DatasetRef, DatasetType
from lsst.images import DifferenceImage, VisitImage

from ..adapters.compression import DEFAULT_COMPRESSION
from ..adapters.psfs import with_serialisable_psf
from .instrument import TwinklesCam
from .repository import EXPOSURE_DATASET_TYPE, register_exposure_type, repository_root
from .staging import OutputWriteError, StagedDatasets, remove_stale_stages
from .visit_records import VisitConflictError, VisitRecords, insert_visit_records, make_visit_records

_LOG = logging.getLogger(__name__)

type OnExisting = Literal["fail", "skip", "replace"]


class ExposureExistsError(ValueError):
    """The run holds an exposure of this visit already."""


@dataclass
class IngestReport:
    """What became of the exposures given to an `ExposureIngester`.

    Attributes
    ----------
    ingested : `list` [ `lsst.daf.butler.DatasetRef` ]
        Exposures that are in the repository now.
    skipped : `list` [ `str` ]
        Labels of those that were there already.
    failed : `dict` [ `str`, `Exception` ]
        Labels of those that could not be added, and why.
    """

    ingested: list[DatasetRef] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)


class ExposureIngester:
    """Adds exposures to one run of a repository, many in a transaction.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of a writeable repository that knows `TwinklesCam`.
    run : `str`, optional
        RUN collection; ``TwinklesCam/calexp`` by default. It becomes a member
        of the umbrella collection of the camera.
    dataset_type : `str`, optional
        Name of the dataset type.
    compression : `str`, optional
        How pixels are stored, see `~lsst.twinkles.diffim.adapters.compression.COMPRESSIONS`.
    on_existing : `str`, optional
        What to do with a visit whose exposure is there: ``fail``, ``skip`` or
        ``replace``.
    batch_size : `int`, optional
        Number of exposures that are registered in one transaction.

    Notes
    -----
    A context manager. An exposure is wholly in the repository or not at all;
    those of the last, incomplete batch are registered on a normal exit.
    """

    def __init__(
        self,
        butler: Butler,
        *,
        run: str | None = None,
        dataset_type: str = EXPOSURE_DATASET_TYPE,
        compression: str = DEFAULT_COMPRESSION,
        on_existing: OnExisting = "fail",
        batch_size: int = 32,
    ) -> None:
        self.report = IngestReport()
        self._butler = butler
        self._run = run or TwinklesCam().makeCollectionName(dataset_type)
        self._on_existing = on_existing
        self._batch_size = batch_size
        self._root = repository_root(butler)
        self._batch: list[tuple[str, VisitRecords, DatasetRef]] = []
        self._stage = StagedDatasets(butler, self._root, compression=compression)
        TwinklesCam().register(butler.registry)
        self._type: DatasetType = register_exposure_type(butler, dataset_type)
        _join_umbrella(butler, self._run)
        remove_stale_stages(self._root)

    def __enter__(self) -> Self:
        self._stage.__enter__()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if exc_type is None:
                self.flush()
        finally:
            self._stage.__exit__(exc_type, exc, tb)

    def add(self, image: VisitImage, *, visit: int | None = None, label: str | None = None) -> None:
        """Write an exposure; it is registered with the rest of its batch.

        Parameters
        ----------
        image : `lsst.images.VisitImage`
            The calibrated exposure.
        visit : `int`, optional
            Visit number, if not that of the image.
        label : `str`, optional
            Name for the report, such as the file it came from.

        Raises
        ------
        ValueError
            If the image has no visit number or clashes with what is there.
        ExposureExistsError
            If the exposure is there and ``on_existing`` is ``fail``.
        OutputWriteError
            If it cannot be written.
        """
        if isinstance(image, DifferenceImage):
            raise ValueError("this is a difference image; only calibrated exposures can be ingested.")
        image = with_serialisable_psf(image)
        records = make_visit_records(image, visit=visit)
        label = label or f"visit {records.visit}"
        if self._is_there(records):
            if self._on_existing == "skip":
                self.report.skipped.append(label)
                return
            if self._on_existing == "fail":
                raise ExposureExistsError(
                    f"visit {records.visit} is in run {self._run} already; "
                    "give --replace, --skip-existing or another --run."
                )
        data_id = DataCoordinate.standardize(records.data_id, dimensions=self._type.dimensions)
        ref = DatasetRef(self._type, data_id, run=self._run)
        self._stage.add(image, ref, self._make_path(records))
        self._batch.append((label, records, ref))
        if len(self._batch) >= self._batch_size:
            self.flush()

    def flush(self) -> None:
        """Register the exposures that wait; note those that cannot be."""
        batch, self._batch = self._batch, []
        if not batch:
            return
        try:
            self._commit(batch)
        except VisitConflictError:
            # One of them is to blame: find out which, keep the others.
            for item in batch:
                try:
                    self._commit([item])
                except (VisitConflictError, OutputWriteError) as error:
                    self.report.failed[item[0]] = error
        except OutputWriteError as error:
            self.report.failed.update({item[0]: error for item in batch})

    def _commit(self, batch: list[tuple[str, VisitRecords, DatasetRef]]) -> None:
        replace = self._on_existing == "replace"
        records = [item[1] for item in batch]
        self.report.ingested += self._stage.commit(
            [item[2] for item in batch],
            before=lambda: insert_visit_records(self._butler, records, replace=replace),
            replace=replace,
        )

    def _is_there(self, records: VisitRecords) -> bool:
        """Whether the exposure is in the run or in the waiting batch."""
        if any(r.data_id == records.data_id for _, r, _ in self._batch):
            self.flush()
        found = self._butler.query_datasets(
            self._type,
            collections=self._run,
            where="instrument=instr AND visit=num AND detector=det",
            bind={
                "instr": records.data_id["instrument"],
                "num": records.visit,
                "det": records.data_id["detector"],
            },
            find_first=False,
            explain=False,
        )
        return bool(found)

    def _make_path(self, records: VisitRecords) -> str:
        """Return the place of the file, as readable as Gen2's was."""
        row = records.data_id
        filter_name = Path(records.physical_filter.replace(" ", "_")).name
        return f"{self._run}/v{row['visit']}-f{filter_name}/{self._type.name}-d{row['detector']}"


def ingest_visit_image(
    butler: Butler,
    image: VisitImage,
    *,
    run: str | None = None,
    dataset_type: str = EXPOSURE_DATASET_TYPE,
    visit: int | None = None,
    compression: str = DEFAULT_COMPRESSION,
    on_existing: OnExisting = "fail",
) -> DatasetRef | None:
    """Add one calibrated exposure to a repository.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of a writeable repository.
    image : `lsst.images.VisitImage`
        The exposure.
    run, dataset_type, compression, on_existing
        See `ExposureIngester`.
    visit : `int`, optional
        Visit number, if not that of the image.

    Returns
    -------
    ref : `lsst.daf.butler.DatasetRef` or `None`
        The stored dataset; `None` if it was skipped.
    """
    with ExposureIngester(
        butler, run=run, dataset_type=dataset_type, compression=compression, on_existing=on_existing
    ) as ingester:
        ingester.add(image, visit=visit)
        ingester.flush()
        for error in ingester.report.failed.values():
            raise error
    return ingester.report.ingested[0] if ingester.report.ingested else None


def _join_umbrella(butler: Butler, run: str) -> None:
    """Register a run and put it in front of the camera's umbrella collection."""
    umbrella = TwinklesCam().makeUmbrellaCollectionName()
    butler.collections.register(run)
    butler.collections.register(umbrella, CollectionType.CHAINED)
    if run not in butler.collections.get_info(umbrella).children:
        butler.collections.prepend_chain(umbrella, run)
