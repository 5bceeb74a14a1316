"""The command ``makeTwinklesRepo.py``: an empty repository that knows the Twinkles camera."""

from __future__ import annotations

__all__ = ("build_parser", "main")

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

_PROG = "makeTwinklesRepo.py"

_EPILOG = """\
The repository is a Butler repository like any other: ingestExposures.py puts
exposures into it, butler query-datasets REPO lists them, imageDifference.py
subtracts them. simulateTwinkles.py makes one that is full of simulated visits.

The exit status is 0 if the repository is there, 1 if it could not be made, 2
for a wrong command line.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line (`argparse.ArgumentParser`)."""
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Make an empty Butler repository in which the Twinkles camera is registered.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "repo", metavar="REPO", type=Path, help="directory of the repository; made if missing"
    )
    parser.add_argument(
        "--db",
        metavar="URL",
        help="database of the registry, for example postgresql://host/name (default: a SQLite file in REPO)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of `str`, optional
        Arguments; those of the process by default.

    Returns
    -------
    status : `int`
        0 if the repository is there, 1 if it could not be made, 2 for a wrong
        command line.
    """
    args = build_parser().parse_args(argv)
    from ..pipeline.repository import RepositoryError, create_repository

    try:
        create_repository(args.repo, db=args.db).close()
    except RepositoryError as error:
        print(f"{_PROG}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{_PROG}: error: interrupted; nothing was made", file=sys.stderr)
        return 130
    print(f"Made repository {args.repo}. Next: ingestExposures.py {args.repo} FILES")
    return 0


if __name__ == "__main__":
    sys.exit(main())
