"""Whether a file may be executed: for root, only what nobody else can have written."""

from __future__ import annotations

__all__ = (
    "UntrustedFileError",
    "find_module_file",
    "find_reason_for_distrust",
    "guard_loads",
    "guard_pipelines",
    "import_trusted",
    "require_trust",
    "require_trust_of_uri",
)

import importlib
import importlib.util
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ROOT = 0


class UntrustedFileError(Exception):
    """A file would be executed with the rights of root, and others may have written it."""


def require_trust(path: str | Path) -> None:
    """Raise `UntrustedFileError` if a file of Python code must not be executed.

    Parameters
    ----------
    path : `str` or `~pathlib.Path`
        The file (see `find_reason_for_distrust`).
    """
    if reason := find_reason_for_distrust(path):
        raise UntrustedFileError(
            f"{path} would be executed with the rights of root, but {reason}; "
            "mend that, or give --trust-config if you know what is in it"
        )


def require_trust_of_uri(uri: Any) -> None:
    """Raise `UntrustedFileError` if root must not execute what is at a place that is given as a URI.

    Parameters
    ----------
    uri : convertible to `~lsst.resources.ResourcePath`
        The place. Files within installed packages (``resource``) are trusted
        as the modules beside them are; of what is on no file system, nobody
        can tell who wrote it, so that it never is.
    """
    from lsst.resources import ResourcePath

    if os.geteuid() != _ROOT:
        return
    resource = ResourcePath(uri, forceDirectory=False)
    if resource.scheme == "resource":
        return
    if resource.scheme not in ("", "file", "eups"):
        raise UntrustedFileError(
            f"{resource} would be executed with the rights of root, but it is not a file on this machine; "
            "copy it, read it, and name the copy, or give --trust-config if you know what is in it"
        )
    with resource.as_local() as local:
        require_trust(local.ospath)


@contextmanager
def guard_loads(*, trust: bool) -> Iterator[None]:
    """Have every file that a configuration loads looked at first, also those that such a file loads itself.

    Parameters
    ----------
    trust : `bool`
        Not if this is set.
    """
    from lsst.pex.config import Config

    load = Config.load

    def guarded(self: Any, filename: Any, *args: Any, **kwargs: Any) -> Any:
        resource, _ = self._filename_to_resource(filename)
        if resource is not None:
            require_trust_of_uri(resource)
        return load(self, filename, *args, **kwargs)

    if trust or os.geteuid() != _ROOT:
        yield
        return
    with _replace(Config, "load", guarded):
        yield


@contextmanager
def guard_pipelines(*, trust: bool) -> Iterator[None]:
    """Have every file looked at that a pipeline is read from, that it imports, or that configures its tasks.

    Pipelines are code as well: their ``python:`` blocks and contracts are
    executed, and their ``class:`` says what is imported.

    Parameters
    ----------
    trust : `bool`
        Not if this is set.
    """
    from lsst.pipe.base.configOverrides import ConfigOverrides
    from lsst.pipe.base.pipelineIR import PipelineIR

    read_pipeline = PipelineIR.from_uri
    add_file = ConfigOverrides.addFileOverride

    def guarded_pipeline(cls: type, uri: Any) -> Any:
        require_trust_of_uri(uri)
        return read_pipeline(uri)

    def guarded_file(self: Any, filename: Any) -> None:
        # These are read otherwise than by Config.load.
        require_trust_of_uri(filename)
        add_file(self, filename)

    if trust or os.geteuid() != _ROOT:
        yield
        return
    with (
        guard_loads(trust=trust),
        _replace(PipelineIR, "from_uri", classmethod(guarded_pipeline)),
        _replace(ConfigOverrides, "addFileOverride", guarded_file),
    ):
        yield


@contextmanager
def _replace(owner: type, name: str, value: Any) -> Iterator[None]:
    """Let a class have another method within a ``with`` block."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def import_trusted(name: str, *, trust: bool) -> bool:
    """Import a module that the user keeps somewhere on his path.

    Parameters
    ----------
    name : `str`
        Module.
    trust : `bool`
        Whether root executes a file that others may have written.

    Returns
    -------
    found : `bool`
        Whether there is such a module.

    Raises
    ------
    UntrustedFileError
        If it must not be executed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None:
        return False
    file = find_module_file(name)
    if file is not None and not trust:
        require_trust(file)
    importlib.import_module(name)
    return True


def find_module_file(name: str) -> str | None:
    """Return the file that importing a module would execute, `None` if there is none."""
    spec = importlib.util.find_spec(name)
    return spec.origin if spec is not None and spec.has_location else None


def find_reason_for_distrust(path: str | Path) -> str | None:
    """Tell why a file of Python code must not be executed.

    Parameters
    ----------
    path : `str` or `~pathlib.Path`
        The file.

    Returns
    -------
    reason : `str` or `None`
        `None` if it may be executed: always for a user other than root, for
        whom the file is what a program is that he starts. Root refuses a file
        if somebody else owns it or one of the directories above it, or may
        write to them. The owner of this package is not somebody else: root is
        executing his code already.

    Raises
    ------
    OSError
        If the file is not there.
    """
    if os.geteuid() != _ROOT:
        return None
    trusted = {_ROOT, Path(__file__).stat().st_uid}
    file = Path(path).resolve(strict=True)
    for place in (file, *file.parents):
        if reason := _find_fault(place.stat(), trusted):
            return f"{place} {reason}"
    return None


def _find_fault(info: os.stat_result, trusted: set[int]) -> str | None:
    """Return who may change a file or directory that only some should; `None` if nobody else."""
    if info.st_uid not in trusted:
        return f"belongs to user {info.st_uid}"
    # In a directory with this bit, everybody may add files, but only touch his own.
    if stat.S_ISDIR(info.st_mode) and info.st_mode & stat.S_ISVTX:
        return None
    if info.st_mode & stat.S_IWOTH:
        return "may be written to by everybody"
    if info.st_mode & stat.S_IWGRP and info.st_gid != _ROOT:
        return f"may be written to by group {info.st_gid}"
    return None
