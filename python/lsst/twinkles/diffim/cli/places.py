"""Where a command reads and writes: --output, --rerun and what they mean in Gen3."""

from __future__ import annotations

__all__ = (
    "CommandError",
    "Places",
    "find_places",
    "is_repository",
    "open_input",
    "refuse_foreign_repository",
    "remove_output",
)

import json
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from .gen2_parser import Gen2Arguments

_CONFIG = "butler.yaml"
_PARENT = "_parent"
_OWN_LEFTOVERS = ("creating-", ".staging")


class CommandError(Exception):
    """The command cannot be carried out as it was given.

    Parameters
    ----------
    message : `str`
        What, where, and how to mend it.
    status : `int`, optional
        Exit status.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Places:
    """The repositories of a run."""

    input: str
    """Directory or URI of the input repository (`str`)."""

    output: Path | None
    """Directory of the output repository; `None` if nothing is to be written (`pathlib.Path`)."""


def find_places(args: Gen2Arguments) -> Places:
    """Work out the input and the output repository.

    Parameters
    ----------
    args : `Gen2Arguments`
        Arguments of the command line.

    Returns
    -------
    places : `Places`
        ``--rerun OUT`` is the directory ``rerun/OUT`` in the input repository;
        ``--rerun IN:OUT`` reads ``rerun/IN``. An output repository that serves
        as input, and one that is there already, lead to the repository they
        were made from.

    Raises
    ------
    CommandError
        If input and output do not go together.
    """
    root = _local_directory(args.repo)
    if not args.rerun:
        output = None if args.output is None else Path(args.output)
        if output is not None and _same(output, root):
            raise CommandError(f"the output is the input repository, {root}; choose another --output")
        if output is not None and _is_below(output, root) and _origin(output) is None:
            raise CommandError(
                f"the output {output} would be in the input repository, {root}, which is not written to; "
                "choose an --output elsewhere, or give --rerun NAME, for results kept with their input"
            )
        return Places(root, output)
    if "://" in root:
        raise CommandError(f"--rerun needs a repository in a local directory, not {root}; give --output DIR")
    name_in, colon, name_out = args.rerun.rpartition(":")
    source, output = Path(root) / "rerun" / name_in, Path(root) / "rerun" / name_out
    names = [name_in, name_out] if colon else [name_out]
    if not all(_is_name(name) for name in names) or name_in == name_out:
        raise CommandError(f"--rerun {args.rerun!r} must be a name, or two different names IN:OUT")
    if colon:
        if not source.is_dir():
            raise CommandError(f"--rerun {args.rerun}: there is no {source} to read")
        return Places(_origin(source) or str(source), output)
    return Places(_origin(output) or root, output)


def open_input(place: str) -> Butler:
    """Open the input repository of `Places`, wherever it is, for reading.

    Raises
    ------
    lsst.twinkles.diffim.pipeline.repository.RepositoryError
        If it cannot be read.
    """
    from lsst.daf.butler import Butler

    from ..pipeline.repository import RepositoryError, open_input_repository

    if "://" not in place:
        return open_input_repository(place)
    try:
        return Butler.from_config(place, writeable=False)
    except Exception as error:  # each kind of store has exceptions of its own
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RepositoryError(f"Cannot read repository {place}: {reason}; check the address.") from error


def is_repository(output: Path | None) -> bool:
    """Whether there is a repository in a directory, finished or not (`bool`)."""
    return output is not None and (output / _CONFIG).exists()


def remove_output(places: Places) -> None:
    """Delete the output repository, if it is one.

    Raises
    ------
    CommandError
        If the directory holds anything else, or the input.
    """
    output = places.output
    if output is None or not output.exists():
        return
    if not output.is_dir() or output.is_symlink():
        raise CommandError(f"--clobber-output: {output} is not a directory; remove it yourself")
    if "://" not in places.input and Path(places.input).resolve().is_relative_to(output.resolve()):
        raise CommandError(f"--clobber-output: {output} holds the input repository {places.input}")
    names = [path.name for path in output.iterdir()]
    if _PARENT not in names and any(not name.startswith(_OWN_LEFTOVERS) for name in names):
        raise CommandError(
            f"--clobber-output: {output} was not made by this command (no {_PARENT} in it) and is left as it "
            "is; choose another --output, or remove it yourself"
        )
    try:
        # Without its configuration it is no repository: a run that is killed here leaves nothing misleading.
        (output / _CONFIG).unlink(missing_ok=True)
        shutil.rmtree(output)
    except OSError as error:
        raise CommandError(f"--clobber-output: cannot delete {output}: {error.strerror}", 1) from error


def refuse_foreign_repository(output: Path) -> None:
    """Keep out of repositories that are nobody's output.

    Raises
    ------
    CommandError
        If there is a repository with datasets of others.
    """
    from ..pipeline.repository import RepositoryError, open_input_repository

    if not is_repository(output) or (output / _PARENT).exists():
        return
    try:
        with closing(open_input_repository(output)) as butler:
            # One without dataset types was left by a run that was killed as it began.
            is_empty = not list(butler.registry.queryDatasetTypes())
    except RepositoryError as error:
        raise CommandError(f"the output is damaged: {error}", 1) from error
    if not is_empty:
        raise CommandError(
            f"{output} is a repository that this command did not make; choose another --output"
        )


def _local_directory(repo: str) -> str:
    """Return the directory that a path or a file URI means; other URIs as they are."""
    if "://" in repo:
        parts = urlsplit(repo)
        if parts.scheme != "file":
            return repo
        repo = unquote(parts.path)
    path = Path(repo)
    return str(path.parent if path.is_file() else path)


def _origin(output: Path) -> str | None:
    """Return the input repository of an output repository, `None` if it is not one."""
    try:
        return json.loads((output / _PARENT).read_text())["root"]
    except FileNotFoundError:
        return None
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CommandError(f"{output / _PARENT} cannot be read ({error}); remove {output}", 1) from error


def _is_name(name: str) -> bool:
    """Whether a directory of that name lies below another."""
    return bool(name) and not Path(name).is_absolute() and not {".", ".."} & set(name.split("/"))


def _is_below(output: Path, root: str) -> bool:
    """Tell whether an output would be within the directory of a repository."""
    return "://" not in root and output.resolve().is_relative_to(Path(root).resolve())


def _same(output: Path, root: str) -> bool:
    return "://" not in root and output.resolve() == Path(root).resolve()
