"""Whether a file may be executed: for root, only what nobody else can have written."""

from __future__ import annotations

__all__ = ("find_reason_for_distrust",)

import os
import stat
from pathlib import Path

_ROOT = 0


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
