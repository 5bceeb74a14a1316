"""Arguments read from files: ``@FILE`` on the command line."""

from __future__ import annotations

__all__ = ("ArgumentFileError", "expand_argument_files")

import shlex
from collections.abc import Sequence
from pathlib import Path


class ArgumentFileError(ValueError):
    """A file of arguments could not be read."""


def expand_argument_files(arguments: Sequence[str], *, parents: tuple[Path, ...] = ()) -> list[str]:
    """Replace every ``@FILE`` by the arguments that the file holds.

    Parameters
    ----------
    arguments : `~collections.abc.Sequence` [`str`]
        Words of a command line.
    parents : `tuple` [`~pathlib.Path`], optional
        Files being read, outermost first.

    Returns
    -------
    arguments : `list` [`str`]
        The words with all files expanded, in place and in order. In a file
        words are split and quoted as in a shell, any number on a line, and
        ``#`` starts a comment.

    Raises
    ------
    ArgumentFileError
        If a file cannot be read, has unbalanced quotes or includes itself.
    """
    words: list[str] = []
    for argument in arguments:
        if not argument.startswith("@"):
            words.append(argument)
            continue
        path = Path(argument[1:]).expanduser()
        if path.absolute() in parents:
            raise ArgumentFileError(f"argument file {path} includes itself")
        words += expand_argument_files(_read_words(path), parents=(*parents, path.absolute()))
    return words


def _read_words(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentFileError(f"cannot read argument file {path}: {error}") from error
    words = []
    for number, line in enumerate(lines, start=1):
        try:
            words += shlex.split(line, comments=True)
        except ValueError as error:
            raise ArgumentFileError(f"{path}, line {number}: {error}: {line.strip()}") from error
    return words
