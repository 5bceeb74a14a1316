"""The repository that a run leaves its results in, apart from its input."""

from __future__ import annotations

__all__ = ("OUTPUTS", "OutputRepository", "open_output_repository", "put_outputs", "read_parent")

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

import sqlalchemy.exc

from lsst.daf.butler import Butler, DataCoordinate, DatasetRef, DatasetType
from lsst.daf.butler.registry import DataIdError

from ..adapters.compression import DEFAULT_COMPRESSION
from ..algorithms.threads import get_num_threads
from .provenance import make_provenance
from .repository import (
    RepositoryError,
    lock_directory,
    make_empty_repository,
    open_butler,
    repository_root,
)
from .staging import LAYOUTS, StagedDatasets, remove_stale_stages

_PARENT_NAME = "_parent"
_CONFIG_NAME = "butler.yaml"
_EXPOSURE = ("instrument", "visit", "detector")


class _Output(NamedTuple):
    """A kind of result: how it is stored and where."""

    storage_class: str
    dimensions: tuple[str, ...]
    path: str


_PER_EXPOSURE = "v{visit}-f{band}/{raft}/%s-{sensor}"

OUTPUTS: dict[str, _Output] = {
    "differenceExp": _Output("DifferenceImage", _EXPOSURE, _PER_EXPOSURE % "diffexp"),
    "matchedExp": _Output("VisitImage", _EXPOSURE, _PER_EXPOSURE % "matchexp"),
    "warpedExp": _Output("VisitImage", _EXPOSURE, _PER_EXPOSURE % "warpedexp"),
    "scoreExp": _Output("DifferenceImage", _EXPOSURE, _PER_EXPOSURE % "scoreexp"),
    "diaSrc": _Output("ArrowAstropy", _EXPOSURE, _PER_EXPOSURE % "diaSrc"),
    "kernelSrc": _Output("ArrowAstropy", _EXPOSURE, _PER_EXPOSURE % "kernelSrc"),
    "templateScores": _Output("ArrowAstropy", _EXPOSURE, _PER_EXPOSURE % "templateScores"),
    "metrics": _Output("StructuredDataDict", _EXPOSURE, _PER_EXPOSURE % "metrics"),
    "spatiallySampledMetrics": _Output("ArrowAstropy", _EXPOSURE, _PER_EXPOSURE % "spatialmetrics"),
    "metadata": _Output("TaskMetadata", _EXPOSURE, _PER_EXPOSURE % "metadata"),
    "log": _Output("ButlerLogRecords", _EXPOSURE, _PER_EXPOSURE % "log"),
    "config": _Output("Config", (), "config"),
    "packages": _Output("Packages", (), "packages"),
}
"""Results of a run. The dataset type of ``differenceExp`` is
``<coaddName>Diff_differenceExp``, its file
``<coaddName>Diff/v<visit>-f<band>/R22/diffexp-S11.fits``, and so on."""


@dataclass(frozen=True)
class OutputRepository:
    """An output repository that is open for writing; a context manager that closes it.

    Attributes
    ----------
    root : `pathlib.Path`
        Its directory.
    butler : `lsst.daf.butler.Butler`
        Writeable client; every process opens its own.
    coadd_name : `str`
        Prefix of the dataset types without ``Diff``.
    names : mapping from `str` to `str`
        Dataset types of those of `OUTPUTS` that do not have the prefix.
    """

    root: Path
    butler: Butler
    coadd_name: str = "deep"
    names: Mapping[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.butler.close()

    @property
    def run(self) -> str:
        """RUN collection of all results (`str`)."""
        return f"{self.coadd_name}Diff"

    def dataset_type(self, output: str) -> DatasetType:
        """Return the dataset type of one of `OUTPUTS`."""
        kind = OUTPUTS[output]
        return DatasetType(
            self.names.get(output) or f"{self.run}_{output}",
            kind.dimensions,
            kind.storage_class,
            universe=self.butler.dimensions,
        )

    def register(self) -> None:
        """Register dataset types and run; may be repeated."""
        self.butler.collections.register(self.run)
        for output in OUTPUTS:
            self.butler.registry.registerDatasetType(self.dataset_type(output))

    def copy_dimension_records(self, source: Butler, refs: Iterable[DatasetRef]) -> None:
        """Copy what the input repository knows of some exposures.

        Parameters
        ----------
        source : `lsst.daf.butler.Butler`
            Client of the input repository.
        refs : iterable of `lsst.daf.butler.DatasetRef`
            Exposures, science and templates.
        """
        self.butler.transfer_dimension_records_from(source, refs)

    def find(self, output: str, data_id: Mapping[str, Any] | None = None) -> DatasetRef | None:
        """Return the stored result of a data id, or `None`."""
        return self.butler.find_dataset(
            self.dataset_type(output), dict(data_id) if data_id else None, collections=self.run
        )


def open_output_repository(
    out: str | Path,
    input_butler: Butler,
    *,
    coadd_name: str = "deep",
    names: Mapping[str, str] | None = None,
    refs: Iterable[DatasetRef] = (),
    collections: Iterable[str] = (),
) -> OutputRepository:
    """Open the output repository, making it where there is none.

    Parameters
    ----------
    out : `str` or `pathlib.Path`
        Directory.
    input_butler : `lsst.daf.butler.Butler`
        Client of the input repository, which is only read.
    coadd_name : `str`, optional
        Prefix of the dataset types without ``Diff``.
    names : mapping from `str` to `str`, optional
        Dataset types of those of `OUTPUTS` that do not have the prefix.
    refs : iterable of `lsst.daf.butler.DatasetRef`, optional
        Exposures of the job; their dimension records are copied.
    collections : iterable of `str`, optional
        Input collections, noted beside the input's path.

    Returns
    -------
    repository : `OutputRepository`
        The open repository.

    Raises
    ------
    RepositoryError
        If ``out`` is the input, cannot be made or written to, or belongs to
        another input.
    """
    root = Path(out)
    parent = _find_root(input_butler)
    if root.exists() and parent is not None and root.resolve() == parent:
        raise RepositoryError(f"Output {root} is the input repository; choose another --output.")
    with lock_directory(root):
        try:
            if not (root / _CONFIG_NAME).exists():
                make_empty_repository(root).close()
            _check_parent(root, parent, list(collections))
            repository = OutputRepository(
                root=root.resolve(),
                butler=open_butler(root, writeable=True),
                coadd_name=coadd_name,
                names=dict(names or {}),
            )
            _prepare(repository, input_butler, refs)
        except (OSError, sqlalchemy.exc.SQLAlchemyError) as error:
            raise RepositoryError(
                f"Cannot write to output repository {root}: {error}; choose another --output."
            ) from error
    remove_stale_stages(root)
    return repository


def put_outputs(
    repository: OutputRepository,
    data_id: Mapping[str, Any],
    products: Mapping[str, Any],
    *,
    inputs: Iterable[DatasetRef] = (),
    compression: str = DEFAULT_COMPRESSION,
    layout: str = LAYOUTS[0],
    backup: bool = False,
) -> dict[str, DatasetRef]:
    """Store the results of one data id: all of them or none.

    Parameters
    ----------
    repository : `OutputRepository`
        Where to; its registry must know the visit.
    data_id : mapping
        ``instrument``, ``visit`` and ``detector``; empty for results of the
        whole run (``config``, ``packages``).
    products : mapping
        Results by their name in `OUTPUTS`; those that are `None` are left out.
    inputs : iterable of `lsst.daf.butler.DatasetRef`, optional
        Exposures they were made from, written to file headers.
    compression : `str`, optional
        How pixels are stored, see `~lsst.twinkles.diffim.adapters.compression.COMPRESSIONS`.
    layout : `str`, optional
        How files of images are laid out, see `.staging.LAYOUTS`.
    backup : `bool`, optional
        Keep a copy ``file~N`` of what is overwritten.

    Returns
    -------
    refs : `dict` [ `str`, `lsst.daf.butler.DatasetRef` ]
        The stored datasets by name.

    Raises
    ------
    OutputWriteError
        If something cannot be written. Nothing of this data id is in the
        repository then, except what an earlier run left if it was not yet
        replaced.
    ValueError
        If a name is not one of `OUTPUTS`.

    Notes
    -----
    Results of an earlier run with the same data id are replaced. Files are
    complete before the registry learns of any, so that a killed process leaves
    nothing visible; its files are removed by a later one.
    """
    unknown = set(products) - set(OUTPUTS)
    if unknown:
        raise ValueError(f"products has unknown names {sorted(unknown)}; known are {sorted(OUTPUTS)}.")
    provenance = make_provenance(inputs)
    refs: dict[str, DatasetRef] = {}
    datasets = []
    with StagedDatasets(repository.butler, repository.root, compression=compression, layout=layout) as stage:
        for name, product in products.items():
            if product is None:
                continue
            dataset_type = repository.dataset_type(name)
            # Expanded, because the name of the file has the band and the sensor in it.
            coordinate = _expand(repository, data_id if dataset_type.dimensions else {}, dataset_type)
            ref = DatasetRef(dataset_type, coordinate, run=repository.run)
            path = _make_path(repository, name, ref)
            if backup:
                _back_up(repository, repository.find(name, data_id if dataset_type.dimensions else None))
            refs[name] = ref
            datasets.append((product, ref, path))
        stage.add_all(datasets, provenance=provenance, workers=get_num_threads())
        stage.commit(replace=True)
    return refs


def read_parent(root: str | Path) -> str | None:
    """Return the input repository that an output repository was made from.

    Parameters
    ----------
    root : `str` or `pathlib.Path`
        Directory of the output repository.

    Returns
    -------
    parent : `str` or `None`
        Path of the input; `None` if ``root`` is not an output repository.
    """
    try:
        return json.loads((Path(root) / _PARENT_NAME).read_text())["root"]
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError) as error:
        raise RepositoryError(f"{Path(root) / _PARENT_NAME} is damaged ({error}); remove it.") from error


def _check_parent(root: Path, parent: Path | None, collections: list[str]) -> None:
    """Note the input of a new output repository; refuse another one later."""
    here = None if parent is None else str(parent)
    known = read_parent(root)
    if known is None:
        file = root / _PARENT_NAME
        draft = file.with_name(f"{_PARENT_NAME}.{os.getpid()}")
        draft.write_text(json.dumps({"root": here, "collections": collections}, indent=2) + "\n")
        draft.replace(file)
    elif here is not None and known != here:
        raise RepositoryError(
            f"Output {root} belongs to the input repository {known}, not to {here}; "
            "choose another --output, or --clobber-output to start afresh."
        )


def _prepare(repository: OutputRepository, input_butler: Butler, refs: Iterable[DatasetRef]) -> None:
    """Tell the registry what is going to come; close it where that fails."""
    try:
        repository.register()
        repository.copy_dimension_records(input_butler, refs)
    except BaseException:
        repository.butler.close()
        raise


def _find_root(butler: Butler) -> Path | None:
    try:
        return repository_root(butler)
    except RepositoryError:
        return None  # in an object store


def _expand(repository: OutputRepository, data_id: Mapping[str, Any], kind: DatasetType) -> DataCoordinate:
    """Attach dimension records to a data id."""
    try:
        return repository.butler.registry.expandDataId(dict(data_id), dimensions=kind.dimensions)
    except DataIdError as error:
        raise ValueError(
            f"data_id {dict(data_id)} is not known to output repository {repository.root} ({error}); "
            "copy its dimension records from the input first."
        ) from error


def _make_path(repository: OutputRepository, name: str, ref: DatasetRef) -> str:
    """Return the place of a file below the root, after the layout of Gen2."""
    template = OUTPUTS[name].path
    if not ref.dataId.dimensions:
        return f"{repository.run}/{template}"
    detector: Any = ref.dataId.records["detector"]
    fields = {
        "visit": ref.dataId["visit"],
        "band": ref.dataId["band"],
        "raft": detector.raft or "R00",
        "sensor": detector.name_in_raft or detector.full_name,
    }
    return f"{repository.run}/{template.format_map(fields)}"


def _back_up(repository: OutputRepository, ref: DatasetRef | None) -> None:
    """Copy the file of a dataset to ``file~N`` with the first free number."""
    if ref is None:
        return
    file = Path(repository.butler.getURI(ref).ospath)
    number = 1
    while (copy := file.with_name(f"{file.name}~{number}")).exists():
        number += 1
    copy.write_bytes(file.read_bytes())
