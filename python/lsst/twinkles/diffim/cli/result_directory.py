"""A directory of results that appears when it is complete, or not at all."""

from __future__ import annotations

__all__ = ("ResultDirectory", "write_summary", "write_table")

import fcntl
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.images import MaskedImage, VisitImage

_MARKER = "summary.json"
_LOCK_NAME = ".lock"


class ResultDirectory:
    """Writes to a hidden sibling and renames it at the end.

    Parameters
    ----------
    target : `pathlib.Path`
        Directory that is to hold the results.
    clobber : `bool`
        Whether results of an earlier run may be replaced. Nothing else is.
    inputs : iterable of `pathlib.Path`
        Files that must not lie in it.

    Attributes
    ----------
    path : `pathlib.Path`
        Where to write.

    Raises
    ------
    OSError
        On entering, if the target is there and may not be replaced, or its place cannot be written to.

    Notes
    -----
    A killed process leaves its hidden sibling; the next one that has the same target removes it.
    """

    def __init__(self, target: Path, *, clobber: bool, inputs: Iterable[Path]) -> None:
        self.target = Path(target).absolute()
        self._clobber = clobber
        self._inputs = [Path(path).resolve() for path in inputs]
        self._prefix = f".{self.target.name}.unfinished."
        self._lock: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._refuse_or_accept()
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._remove_stale()
        self.path = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.target.parent))
        self.path.chmod(0o777 & ~_umask())
        self._lock = (self.path / _LOCK_NAME).open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def commit(self) -> None:
        """Put the results in their place."""
        (self.path / _LOCK_NAME).unlink()
        retired: Path | None = None
        if self.target.exists():
            self._refuse_or_accept()
            retired = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self.target.parent))
            self.target.rename(retired / self.target.name)
        try:
            self.path.rename(self.target)
        except OSError:
            if retired is not None:
                (retired / self.target.name).rename(self.target)
            raise
        if retired is not None:
            shutil.rmtree(retired, ignore_errors=True)

    def _refuse_or_accept(self) -> None:
        """Raise unless the target is free, or holds results that may be replaced."""
        if not self.target.exists():
            return
        if not self.target.is_dir():
            raise OSError(0, "it is a file; give a directory")
        if any(path.is_relative_to(self.target.resolve()) for path in self._inputs):
            raise OSError(0, "it holds one of the exposures; give another directory")
        if not any(self.target.iterdir()):
            return
        if not (self.target / _MARKER).is_file():
            raise OSError(0, "it holds files that are no results of this command; give another directory")
        if not self._clobber:
            raise OSError(0, "it holds results already; give another directory, or --clobber to replace them")

    def _remove_stale(self) -> None:
        """Remove what killed processes left for the same target."""
        for directory in self.target.parent.glob(f"{self._prefix}*"):
            with suppress(OSError), (directory / _LOCK_NAME).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)


def write_table(table: Table, path: Path) -> None:
    """Write a table as parquet; astropy reads back its units, pandas its columns.

    Parameters
    ----------
    table : `astropy.table.Table`
        Table.
    path : `pathlib.Path`
        File to write.
    """
    table.write(path, format="parquet")


def write_summary(
    path: Path,
    *,
    files: Mapping[str, Path],
    exposures: Mapping[str, VisitImage],
    reading: Mapping[str, Mapping[str, Any]],
    difference: MaskedImage,
    sources: Table | None,
    metadata: Mapping[str, Any],
) -> None:
    """Write what a person wants to know of a subtraction, as JSON.

    Parameters
    ----------
    path : `pathlib.Path`
        File to write.
    files : `~collections.abc.Mapping` [`str`, `pathlib.Path`]
        File of each role.
    exposures : `~collections.abc.Mapping` [`str`, `lsst.images.VisitImage`]
        Exposure of each role.
    reading : `~collections.abc.Mapping`
        With what keywords of `~lsst.twinkles.diffim.adapters.read_exposure.read_exposure` each was read.
    difference : `lsst.images.MaskedImage`
        The result.
    sources : `astropy.table.Table` or `None`
        Its sources.
    metadata : `~collections.abc.Mapping`
        Figures of the tasks, nested by task.
    """
    from importlib.metadata import version

    packages = ("lsst-twinkles-diffim", "lsst-images", "numpy", "scipy")
    summary = {
        "inputs": {
            role: _describe(files[role], exposure) | {"reading": dict(reading[role])}
            for role, exposure in exposures.items()
        },
        "unit": str(difference.unit),
        "nSources": None if sources is None else len(sources),
        "nNegative": None if sources is None else int(sources["isNegative"].sum()),
        "tasks": {task: _without_clockwork(values) for task, values in metadata.items()},
        "versions": {name: version(name) for name in packages},
    }
    path.write_text(json.dumps(_plain(summary), indent=2) + "\n")


def _without_clockwork(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the framework notes of the process; times stay, as one number each."""
    kept = {k: v for k, v in values.items() if not k.startswith(("run", "__")) and k != "nodeName"}
    start, end = (values.get(f"run{which}CpuTime") for which in ("Start", "End"))
    return kept | ({"runCpuSeconds": end[-1] - start[-1]} if start and end else {})


def _describe(file: Path, exposure: VisitImage) -> dict[str, Any]:
    """Say what an exposure is, and what was made for it."""
    from ..adapters.psfs import psf_fwhm, sample_psf

    return {
        "file": str(Path(file).absolute()),
        "size": [exposure.bbox.x.size, exposure.bbox.y.size],
        "band": exposure.band,
        "visit": exposure.obs_info.visit_id,
        "unit": str(exposure.unit),
        "fwhmPixels": psf_fwhm(sample_psf(exposure.psf, exposure.bbox, grid=1)),
        "made": {k: v for k, v in exposure.metadata.items() if k.startswith(_SAID)},
    }


# Beginnings of the keys of metadata that say what was made, assumed, found or left out.
_SAID = ("made", "assumed", "marked", "registered", "skipped", "noticed")


def _plain(value: Any) -> Any:
    """Turn values into those of JSON; numbers that are not finite into null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask
