"""Write datasets beside a repository first, then register them all at once.

`Butler.put` inside a transaction would hold the database lock of a SQLite
repository while pixels are compressed. Here files are written to a staging
directory of the repository (the same file system, so that a rename moves
them), without any lock; the registry then learns of all of them in one short
transaction. Whoever is interrupted in between leaves files that no registry
row names, and the next writer removes them.
"""

from __future__ import annotations

__all__ = (
    "LAYOUTS",
    "OutputWriteError",
    "StagedDatasets",
    "remove_stale_stages",
    "write_dataset",
)

import errno
import fcntl
import itertools
import logging
import os
import re
import shutil
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import sqlalchemy.exc

from lsst.daf.butler import (
    Butler,
    DatasetProvenance,
    DatasetRef,
    FileDataset,
    FileDescriptor,
    FormatterV2,
    Location,
)
from lsst.images import GeneralizedImage
from lsst.images.fits import FitsCompressionOptions
from lsst.images.formatters import GenericFormatter
from lsst.images.serialization import ButlerInfo, write_archive
from lsst.resources import ResourcePath
from lsst.utils import doImportType

from ..adapters.compression import COMPRESSIONS, DEFAULT_COMPRESSION, compress_mask

_LOG = logging.getLogger(__name__)

STAGING_DIRECTORY = ".staging"
_LOCK_NAME = "lock"
# Stands in a lock that its owner has taken; one that has none yet is left alone for a while.
_HELD = b"held"
_LOCK_GRACE_S = 10.0
_COMMIT_ATTEMPTS = 5

LAYOUTS = ("images", "afw")
"""Layouts of image files: that of `lsst.images`, or that of the LSST stack's exposures."""

_AFW_FORMATTER = "lsst.twinkles.diffim.pipeline.afw_formatter.AfwExposureFormatter"
_FORMATTERS = {
    "ArrowAstropy": "lsst.daf.butler.formatters.parquet.ParquetFormatter",
    "ButlerLogRecords": "lsst.daf.butler.formatters.logs.ButlerLogRecordsFormatter",
    "Config": "lsst.pipe.base.formatters.pexConfig.PexConfigFormatter",
    "Packages": "lsst.daf.butler.formatters.packages.PackagesFormatter",
    "StructuredDataDict": "lsst.daf.butler.formatters.yaml.YamlFormatter",
    "TaskMetadata": "lsst.daf.butler.formatters.json.JsonFormatter",
}
_FORMATTER_PARAMETERS: dict[str, dict[str, Any]] = {"Packages": {"format": "yaml"}}


class OutputWriteError(OSError):
    """Datasets could not be written; none of them was kept."""

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True)
class _StagedDataset:
    """A file that waits to be moved into the repository."""

    ref: DatasetRef
    staged: Path
    final: Path
    formatter: type


class StagedDatasets:
    """Datasets that become visible together or not at all.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Butler of the writeable repository.
    root : `pathlib.Path`
        Its directory (that of its file datastore).
    compression : `str`, optional
        Name in `COMPRESSIONS`, for images.
    layout : `str`, optional
        One of `LAYOUTS`, for images; compression is for the first one.

    Notes
    -----
    A context manager: ``add`` datasets, then ``commit`` (once or several
    times). Whatever has not been committed is removed on exit.
    """

    def __init__(
        self,
        butler: Butler,
        root: Path,
        *,
        compression: str = DEFAULT_COMPRESSION,
        layout: str = LAYOUTS[0],
    ) -> None:
        if compression not in COMPRESSIONS:
            raise ValueError(f"compression must be one of {sorted(COMPRESSIONS)}, got {compression!r}.")
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {LAYOUTS}, got {layout!r}.")
        self._butler = butler
        self._root = Path(root)
        self._compression = COMPRESSIONS[compression]
        self._layout = layout
        self._directory = self._root / STAGING_DIRECTORY / uuid.uuid4().hex
        self._pending: list[_StagedDataset] = []
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        with _explain_os_errors(self._root):
            self._directory.mkdir(parents=True)
            # Held as long as this process lives: tells others that the directory is in use.
            self._lock = (self._directory / _LOCK_NAME).open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._lock.write(_HELD)
            self._lock.flush()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()
        with suppress(OSError):
            self._directory.parent.rmdir()  # unless others are at work

    def __len__(self) -> int:
        return len(self._pending)

    def add(
        self, obj: Any, ref: DatasetRef, path: str, *, provenance: DatasetProvenance | None = None
    ) -> DatasetRef:
        """Write a dataset to the staging directory.

        Parameters
        ----------
        obj : `object`
            What to store, of the type that the storage class asks for.
        ref : `lsst.daf.butler.DatasetRef`
            Its new identity.
        path : `str`
            Place of the file below the root, without extension.
        provenance : `lsst.daf.butler.DatasetProvenance`, optional
            Inputs it was made from.

        Raises
        ------
        OutputWriteError
            If the file cannot be written (disk full, no permission).
        """
        self._pending.append(self._write(obj, ref, path, provenance))
        return ref

    def add_all(
        self,
        datasets: Sequence[tuple[Any, DatasetRef, str]],
        *,
        provenance: DatasetProvenance | None = None,
        workers: int = 1,
    ) -> None:
        """Write several datasets, some at a time.

        Parameters
        ----------
        datasets : sequence of `tuple`
            What ``add`` takes: object, identity and path of each.
        provenance : `lsst.daf.butler.DatasetProvenance`, optional
            Inputs they were made from.
        workers : `int`, optional
            Threads; compression leaves the interpreter to others.

        Raises
        ------
        OutputWriteError
            If a file cannot be written; none of these datasets is added then.
        """
        with ThreadPoolExecutor(1 if _share_pixels(datasets) else workers) as pool:
            jobs = [pool.submit(self._write, *dataset, provenance) for dataset in datasets]
            self._pending += [job.result() for job in jobs]

    def _write(
        self, obj: Any, ref: DatasetRef, path: str, provenance: DatasetProvenance | None
    ) -> _StagedDataset:
        with _explain_os_errors(self._root, ref):
            staged, formatter = write_dataset(
                obj,
                ref,
                self._directory / ref.id.hex,
                provenance=provenance,
                compression=self._compression,
                layout=self._layout,
            )
        final = self._root / f"{path}{staged.suffix}"
        return _StagedDataset(ref=ref, staged=staged, final=final, formatter=formatter)

    def commit(
        self,
        refs: Iterable[DatasetRef] | None = None,
        *,
        before: Callable[[], None] | None = None,
        replace: bool = False,
    ) -> list[DatasetRef]:
        """Move what was added into the repository and register it.

        Parameters
        ----------
        refs : iterable of `lsst.daf.butler.DatasetRef`, optional
            Which of the datasets that were added; all by default.
        before : callable, optional
            What else belongs into the same transaction (dimension records).
        replace : `bool`, optional
            Remove datasets of the same type, data id and run first.

        Returns
        -------
        refs : `list` [ `lsst.daf.butler.DatasetRef` ]
            The datasets that are now in the repository.

        Raises
        ------
        OutputWriteError
            If files or database cannot be written; nothing is visible then.
        """
        chosen = None if refs is None else {ref.id for ref in refs}
        pending = [p for p in self._pending if chosen is None or p.ref.id in chosen]
        with _explain_os_errors(self._root, pending[0].ref if pending else None):
            _retry_when_locked(lambda: self._commit(pending, before, replace))
        done = {p.ref.id for p in pending}
        self._pending = [p for p in self._pending if p.ref.id not in done]
        return [p.ref for p in pending]

    def _commit(
        self, pending: list[_StagedDataset], before: Callable[[], None] | None, replace: bool
    ) -> None:
        if replace:
            old = [r for p in pending if (r := _find_in_run(self._butler, p.ref)) is not None]
            if old:
                self._butler.pruneDatasets(old, disassociate=True, unstore=True, purge=True)
        moved: list[_StagedDataset] = []
        try:
            with self._butler.transaction():
                if before is not None:
                    before()
                for item in pending:
                    item.final.parent.mkdir(parents=True, exist_ok=True)
                    # A file that is there is not registered: left over from a killed run.
                    item.staged.replace(item.final)
                    moved.append(item)
                self._butler.ingest(
                    *(FileDataset(path=str(p.final), refs=p.ref, formatter=p.formatter) for p in pending),
                    transfer=None,
                )
        except BaseException:
            for item in moved:
                with suppress(FileNotFoundError):
                    item.final.replace(item.staged)
            raise


def _share_pixels(datasets: Iterable[tuple[Any, DatasetRef, str]]) -> bool:
    """Tell whether images have pixels in common: astropy swaps their bytes in place while it writes them."""
    images = [obj for obj, *_ in datasets if isinstance(obj, GeneralizedImage)]
    planes = [[p.array for name in ("image", "variance") if (p := getattr(i, name, None))] for i in images]
    return any(
        np.may_share_memory(a, b)
        for one, other in itertools.combinations(planes, 2)
        for a, b in itertools.product(one, other)
    )


def write_dataset(
    obj: Any,
    ref: DatasetRef,
    path: Path,
    *,
    provenance: DatasetProvenance | None = None,
    compression: dict[str, FitsCompressionOptions | None] | None = None,
    layout: str = LAYOUTS[0],
) -> tuple[Path, type[FormatterV2]]:
    """Write one dataset in the form in which the Butler reads it.

    Parameters
    ----------
    obj : `object`
        What to write.
    ref : `lsst.daf.butler.DatasetRef`
        Its identity, which goes into the file too.
    path : `pathlib.Path`
        File to write, without extension.
    provenance : `lsst.daf.butler.DatasetProvenance`, optional
        Inputs, written to the FITS header or parquet metadata.
    compression : `dict`, optional
        Value of `COMPRESSIONS`, for images.
    layout : `str`, optional
        One of `LAYOUTS`, for images.

    Returns
    -------
    path : `pathlib.Path`
        The file, with its extension.
    formatter : `type`
        Formatter that reads it.
    """
    expected = ref.datasetType.storageClass.pytype
    if not isinstance(obj, expected):
        obj = ref.datasetType.storageClass.coerce_type(obj)
    is_image = isinstance(obj, GeneralizedImage)
    if is_image and layout != "afw":
        return _write_image(obj, ref, path, provenance or DatasetProvenance(), compression or {})
    storage_class = ref.datasetType.storageClass
    formatter_class = doImportType(_AFW_FORMATTER if is_image else _FORMATTERS[storage_class.name])
    formatter = formatter_class(
        FileDescriptor(Location(None, ResourcePath(str(path))), storage_class),
        ref=ref,
        write_parameters=_FORMATTER_PARAMETERS.get(storage_class.name),
    )
    formatter.write(obj, provenance=provenance)
    return path.with_name(path.name + formatter.get_write_extension()), formatter_class


def _write_image(
    image: GeneralizedImage,
    ref: DatasetRef,
    path: Path,
    provenance: DatasetProvenance,
    compression: dict[str, FitsCompressionOptions | None],
) -> tuple[Path, type[FormatterV2]]:
    """Write an image as the framework's formatter does, but free in compression."""
    cards = provenance.to_flat_dict(
        ref, prefix="HIERARCH LSST BUTLER", sep=" ", simple_types=True, max_inputs=3000
    )
    target = path.with_name(f"{path.name}.fits")
    write_archive(
        image,
        str(target),
        butler_info=ButlerInfo(dataset=ref.to_simple(), provenance=provenance),
        update_header=lambda header: header.update(cards),
        compression_options={"mask": compress_mask(image), **compression},
        # The same data id is always dithered alike, so that a re-run gives the same pixels.
        compression_seed=1 + zlib.crc32(str(ref.dataId).encode()) % 9999,
    )
    return target, GenericFormatter


def remove_stale_stages(root: Path) -> None:
    """Remove staging directories of processes that are gone."""
    for directory in (Path(root) / STAGING_DIRECTORY).glob("*"):
        with suppress(OSError), (directory / _LOCK_NAME).open("rb") as lock:
            state = os.fstat(lock.fileno())
            if state.st_size == 0 and time.time() - state.st_mtime < _LOCK_GRACE_S:
                continue  # its owner may be about to take the lock
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _LOG.info("Removing files left over from an interrupted run in %s.", directory)
            shutil.rmtree(directory, ignore_errors=True)


def _find_in_run(butler: Butler, ref: DatasetRef) -> DatasetRef | None:
    """Return the dataset that has the type, data id and run of another."""
    return butler.find_dataset(ref.datasetType, ref.dataId, collections=ref.run)


def _retry_when_locked(action: Callable[[], None]) -> None:
    """Repeat an action while another process holds the database."""
    for attempt in range(1, _COMMIT_ATTEMPTS + 1):
        try:
            return action()
        except sqlalchemy.exc.OperationalError as error:
            if attempt == _COMMIT_ATTEMPTS or "locked" not in str(error).lower():
                raise
            _LOG.warning("The output registry is locked by another process; trying again.")
            time.sleep(0.2 * 2**attempt)


@contextmanager
def _explain_os_errors(root: Path, ref: DatasetRef | None = None) -> Iterator[None]:
    """Turn failures of disk and database into one sentence with a cure."""
    what = "datasets" if ref is None else f"{ref.datasetType.name} {ref.dataId}"
    try:
        yield
    except OutputWriteError:
        raise
    except (OSError, sqlalchemy.exc.OperationalError, RuntimeError) as error:
        reason = _find_os_error(error)
        if reason is None:
            raise
        cure = (
            "free space or choose another output directory"
            if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            else "check that the directory is writeable"
        )
        text = reason.strerror or str(reason)
        raise OutputWriteError(
            reason.errno or errno.EIO,
            f"Cannot write {what} to {root}: {text}; nothing of it was kept; {cure}",
        ) from error


def _find_os_error(error: BaseException | None) -> OSError | None:
    """Return the operating system's error behind an exception, if any."""
    vague: OSError | None = None
    while error is not None:
        if isinstance(error, OSError):
            if error.errno is not None:
                return error
            vague = vague or error
        if isinstance(error, sqlalchemy.exc.OperationalError):
            text = str(error.orig)
            if "full" in text or "disk I/O" in text:
                return OSError(errno.ENOSPC, text)
            if "readonly" in text or "unable to open" in text:
                return OSError(errno.EACCES, text)
        error = error.__cause__ or error.__context__
    return None if vague is None else _read_number(vague)


def _read_number(error: OSError) -> OSError:
    """Return an error with the number that is only in the text of another (those of numpy and astropy)."""
    text = str(error)
    if match := re.search(r"\[Errno (\d+)\]", text):
        return OSError(int(match[1]), os.strerror(int(match[1])))
    return OSError(errno.ENOSPC if "space" in text or "requested and" in text else errno.EIO, text)
