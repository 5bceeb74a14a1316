"""Repositories of calibrated exposures: make one, open one for reading."""

from __future__ import annotations

__all__ = (
    "EXPOSURE_DATASET_TYPE",
    "RepositoryError",
    "create_repository",
    "default_collections",
    "lock_directory",
    "make_empty_repository",
    "open_input_repository",
    "open_writeable_repository",
    "register_exposure_type",
    "repository_root",
)

import fcntl
import logging
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy.exc

from lsst.daf.butler import (
    Butler,
    ButlerConfig,
    CollectionType,
    Config,
    DatasetType,
    MissingDatasetTypeError,
)
from lsst.resources import ResourcePath

from .instrument import TwinklesCam

_LOG = logging.getLogger(__name__)

EXPOSURE_DATASET_TYPE = "calexp"
"""Default name of the dataset type of calibrated exposures."""

_CONFIG_NAME = "butler.yaml"


class RepositoryError(RuntimeError):
    """A repository is missing, in the way, or not to be read or written."""


def create_repository(root: str | Path, *, db: str | None = None) -> Butler:
    """Make an empty repository that knows the Twinkles camera.

    Parameters
    ----------
    root : `str` or `pathlib.Path`
        Directory of the repository; made if missing.
    db : `str`, optional
        Database URL (``postgresql://host/name``); a SQLite file in ``root``
        by default.

    Returns
    -------
    butler : `lsst.daf.butler.Butler`
        Writeable client of the new repository.

    Raises
    ------
    RepositoryError
        If there is a repository, or if directory or database refuse.
    """
    path = Path(root)
    config = Config()
    if db is not None:
        if not urlsplit(db).scheme:
            raise RepositoryError(
                f"--db must be a database URL such as postgresql://host/name or sqlite:////path, got {db!r}."
            )
        config["registry", "db"] = db
    is_new = not path.exists()
    try:
        with lock_directory(path):
            if (path / _CONFIG_NAME).exists():
                raise RepositoryError(f"There is a repository in {path} already; choose another directory.")
            butler = make_empty_repository(path, config)
    except RepositoryError:
        if is_new:
            with suppress(OSError):
                path.rmdir()
        raise
    register_exposure_type(butler)
    butler.collections.register(
        TwinklesCam().makeUmbrellaCollectionName(), CollectionType.CHAINED, doc="Calibrated exposures."
    )
    return butler


@contextmanager
def lock_directory(path: Path) -> Iterator[None]:
    """Make a directory where needed, and keep other processes from it.

    Raises
    ------
    RepositoryError
        If it cannot be made or opened.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
    except (OSError, ValueError) as error:  # a name with a null character is no OSError
        reason = getattr(error, "strerror", None) or error
        raise RepositoryError(f"Cannot make directory {path}: {reason}.") from error
    try:
        with suppress(OSError):  # some network file systems know no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_empty_repository(path: Path, config: Config | None = None) -> Butler:
    """Make a repository that knows the camera, wholly or not at all.

    Parameters
    ----------
    path : `pathlib.Path`
        Existing directory without a repository.
    config : `lsst.daf.butler.Config`, optional
        Butler configuration where it is not the default; with a database URL
        in it, the tables are made there.

    Returns
    -------
    butler : `lsst.daf.butler.Butler`
        Writeable client.

    Raises
    ------
    RepositoryError
        If directory or database refuse.
    """
    elsewhere = config is not None and ("registry", "db") in config
    for unfinished in path.glob("creating-*"):  # by a process that was killed: the caller holds the lock
        shutil.rmtree(unfinished, ignore_errors=True)
    # No dot in this name: makeRepo takes what follows one for a file extension.
    building = path / f"creating-{uuid.uuid4().hex}"
    try:
        Butler.makeRepo(building, config=config, forceConfigRoot=not elsewhere)
        with open_butler(building, writeable=True) as butler:
            TwinklesCam().register(butler.registry)
        _move_files(building, path)
        return open_butler(path, writeable=True)
    except ModuleNotFoundError as error:
        raise RepositoryError(
            f"Cannot make a repository in {path}: the driver of its database is missing ({error}); "
            f"install it with pip install {error.name}."
        ) from error
    except (OSError, RuntimeError, ValueError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise RepositoryError(f"Cannot make a repository in {path}: {_first_line(error)}.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _move_files(source: Path, target: Path) -> None:
    """Move all files of a directory into another, or none."""
    moved: list[Path] = []
    try:
        # The configuration file comes last: it is what makes the directory a repository.
        for file in sorted(source.iterdir(), key=lambda f: f.name == _CONFIG_NAME):
            moved.append(file.replace(target / file.name))
    except BaseException:
        for file in moved:
            file.unlink(missing_ok=True)
        raise


def register_exposure_type(butler: Butler, name: str = EXPOSURE_DATASET_TYPE) -> DatasetType:
    """Register the dataset type of calibrated exposures; may be repeated.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable client.
    name : `str`, optional
        Name of the dataset type.

    Returns
    -------
    dataset_type : `lsst.daf.butler.DatasetType`
        With dimensions instrument, visit, detector and storage class
        ``VisitImage``.
    """
    dataset_type = DatasetType(
        name, ("instrument", "visit", "detector"), "VisitImage", universe=butler.dimensions
    )
    butler.registry.registerDatasetType(dataset_type)
    return dataset_type


def open_butler(root: Path, *, writeable: bool) -> Butler:
    """Open the repository in a directory, whatever its name."""
    with _quiet_butler():
        return Butler.from_config(ResourcePath(str(root), forceDirectory=True), writeable=writeable)


@contextmanager
def _quiet_butler() -> Iterator[None]:
    """Keep the Butler from logging an error that it raises as well."""
    logger = logging.getLogger("lsst.daf.butler.direct_butler")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def open_writeable_repository(root: str | Path) -> Butler:
    """Open a repository to add to it; it knows the camera then, if it did not.

    Parameters
    ----------
    root : `str` or `pathlib.Path`
        Directory of the repository.

    Returns
    -------
    butler : `lsst.daf.butler.Butler`
        Writeable client.

    Raises
    ------
    RepositoryError
        If there is none, or it cannot be written to.
    """
    path = Path(root)
    _require_repository(path)
    butler: Butler | None = None
    try:
        butler = open_butler(path, writeable=True)
        # Also shows early whether the database takes anything.
        TwinklesCam().register(butler.registry)
        return butler
    except Exception as error:  # database, driver, configuration: each has exceptions of its own
        _close(butler)
        raise RepositoryError(
            f"Cannot write to repository {path}: {_first_line(error)}; check its permissions and its "
            f"{_CONFIG_NAME}."
        ) from error


def open_input_repository(root: str | Path) -> Butler:
    """Open a repository for reading, without ever writing to its directory.

    Parameters
    ----------
    root : `str` or `pathlib.Path`
        Directory of the repository; its file system may be read-only.

    Returns
    -------
    butler : `lsst.daf.butler.Butler`
        Read-only client.

    Raises
    ------
    RepositoryError
        If there is no repository, or it cannot be read.

    Notes
    -----
    A SQLite database that was left in the middle of a write, or is in WAL
    mode, cannot be opened on a read-only file system: SQLite wants to mend it
    first. Then a copy in a temporary directory is opened, and removed with the
    client.
    """
    path = Path(root)
    _require_repository(path)
    butler: Butler | None = None
    try:
        butler = open_butler(path, writeable=False)
        butler.query_dimension_records("instrument", explain=False)
        return butler
    except sqlalchemy.exc.OperationalError as error:
        _close(butler)
        database = _find_sqlite_file(path)
        if database is None or not database.exists():
            raise RepositoryError(f"Cannot read the registry of {path}: {error.orig}.") from error
        _LOG.warning("Reading the registry of %s from a temporary copy (%s).", path, error.orig)
        return _open_copy(path, database)
    except Exception as error:  # database, driver, configuration: each has exceptions of its own
        _close(butler)
        raise RepositoryError(
            f"Cannot read repository {path}: {_first_line(error)}; its {_CONFIG_NAME} or its database is "
            "damaged."
        ) from error


def repository_root(butler: Butler) -> Path:
    """Return the directory of a repository with a local file datastore.

    Raises
    ------
    RepositoryError
        If the datastore is elsewhere (an object store).
    """
    for uri in butler.get_datastore_roots().values():
        if uri is not None and uri.isLocal:
            return Path(uri.ospath).resolve()
    raise RepositoryError(f"{butler} has no local file datastore; files can only be added to a local one.")


def default_collections(butler: Butler, dataset_type: str = EXPOSURE_DATASET_TYPE) -> list[str]:
    """Return the collections to look for exposures in.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Client of the input repository.
    dataset_type : `str`, optional
        Dataset type to be found there.

    Returns
    -------
    collections : `list` [ `str` ]
        The umbrella collection of the camera if that has members; all runs
        that have such datasets, newest name first, otherwise. Empty if none.
    """
    umbrella = TwinklesCam().makeUmbrellaCollectionName()
    for info in butler.collections.query_info(umbrella, include_chains=True):
        if info.type is CollectionType.CHAINED and info.children:
            return [umbrella]
    try:
        butler.get_dataset_type(dataset_type)
    except MissingDatasetTypeError:
        return []
    runs = butler.collections.query_info(
        "*", collection_types={CollectionType.RUN}, include_summary=True, summary_datasets=[dataset_type]
    )
    return sorted((r.name for r in runs if dataset_type in (r.dataset_types or ())), reverse=True)


def _close(butler: Butler | None) -> None:
    if butler is not None:
        butler.close()


def _first_line(error: Exception) -> str:
    """Return what went wrong without the pointers to web pages that SQLAlchemy adds."""
    return str(error).partition("\n")[0].rstrip(".")


def _require_repository(path: Path) -> None:
    if not path.is_dir():
        raise RepositoryError(f"Repository {path} is not a directory; give that of a Butler repository.")
    if not (path / _CONFIG_NAME).exists():
        raise RepositoryError(
            f"{path} is not a Butler repository (no {_CONFIG_NAME} in it); make one with makeTwinklesRepo.py."
        )


def _find_sqlite_file(root: Path) -> Path | None:
    """Return the SQLite file of a repository, `None` for other databases."""
    database = ButlerConfig(root)["registry", "db"].replace("<butlerRoot>", str(root.absolute()))
    parts = urlsplit(database)
    return Path(parts.path[1:]) if parts.scheme == "sqlite" else None


def _open_copy(root: Path, database: Path) -> Butler:
    """Open a repository with a temporary copy of its database."""
    directory = tempfile.TemporaryDirectory(prefix="registry-copy-")
    for file in database.parent.glob(f"{database.name}*"):
        # Not its permissions: the copy has to be writeable.
        shutil.copyfile(file, Path(directory.name) / file.name)
    # Writeable mode lets SQLite roll back an unfinished transaction of the copy.
    config = Config(str(root / _CONFIG_NAME))
    config["root"] = str(root.absolute())
    config["registry", "db"] = f"sqlite:///{directory.name}/{database.name}"
    try:
        engine = sqlalchemy.create_engine(f"sqlite:///{directory.name}/{database.name}")
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("PRAGMA journal_mode=DELETE"))
            connection.execute(sqlalchemy.text("SELECT count(*) FROM sqlite_master"))
        engine.dispose()
        butler = Butler.from_config(ButlerConfig(config), writeable=False)
    except sqlalchemy.exc.SQLAlchemyError as error:
        directory.cleanup()
        raise RepositoryError(f"Cannot read the registry of {root}: {_first_line(error)}.") from error
    weakref.finalize(butler, directory.cleanup)
    return butler
