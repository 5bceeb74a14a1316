"""The command ``ingestExposures.py``: calibrated exposures into a repository."""

from __future__ import annotations

__all__ = ("build_parser", "main")

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lsst.images import VisitImage

    from ..pipeline.ingest import ExposureIngester, IngestReport, OnExisting

_LOG = logging.getLogger("lsst.twinkles.diffim.ingestExposures")
_PROG = "ingestExposures.py"

MAX_STATUS = 125
"""Exit statuses above this have a meaning of their own in shells."""

# Options of the command that are keywords of `read_exposure` of the same name.
_READING = ("band", "physical_filter", "hdu", "gain", "read_noise", "saturation", "zero_point", "psf")

_EPILOG = """\
Files are those of lsst.images, exposures that the LSST stack wrote, or plain FITS: an image, and whatever
else there is of MASK, VARIANCE, PSF (or PSFGRID and PSFPOS) and a WCS. The pixel unit is kept. What
a plain file lacks is made from what it has, and said. An exposure is wholly in the repository or not at all,
also after an interrupt; --skip-existing goes on from there.

The exit status is the number of files that failed, at most 125; 2 also for a wrong command line, 130 after an
interrupt.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line (`argparse.ArgumentParser`)."""
    parser = argparse.ArgumentParser(
        prog=_PROG,
        usage=f"{_PROG} REPO FILE [FILE ...] [options]",
        description="Add calibrated exposures to a repository made with makeTwinklesRepo.py.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        fromfile_prefix_chars="@",
    )
    parser.add_argument("repo", metavar="REPO", type=Path, help="repository")
    parser.add_argument(
        "files",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="files of exposures; @LIST reads names from a file",
    )
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--replace", action="store_true", help="replace exposures of visits that are there")
    there.add_argument("--skip-existing", action="store_true", help="leave exposures that are there alone")
    number = parser.add_mutually_exclusive_group()
    number.add_argument(
        "--visit",
        type=int,
        metavar="N",
        help="visit number of the first file; those after it get N + 1, N + 2, ... (default: as files say)",
    )
    number.add_argument("--visit-key", metavar="KEYWORD", help="FITS keyword that has the visit number")
    parser.add_argument("--run", metavar="NAME", help="RUN collection (TwinklesCam/calexp)")
    parser.add_argument(
        "--compression",
        choices=("fast", "lossless", "lossy"),
        help="how pixels are stored: fast and lossless keep them, lossless in two thirds of the space "
        "and several times the time; lossy quantises them to 1/16 of their noise (fast)",
    )
    _add_reading_options(parser)
    parser.add_argument(
        "-L",
        "--loglevel",
        default="info",
        choices=("debug", "info", "warn", "error"),
        help="what to log (info)",
    )
    return parser


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what plain FITS files do not say, or say wrong")
    for name, text in (
        ("gain", "electrons per pixel unit"),
        ("read-noise", "electrons"),
        ("saturation", "level in pixel units"),
        ("zero-point", "AB magnitude of one pixel unit"),
    ):
        group.add_argument(f"--{name}", type=float, metavar="X", help=text)
    group.add_argument("--hdu", type=_hdu, metavar="HDU", help="number or name of the image")
    group.add_argument("--band", metavar="BAND", help="short name of the filter")
    group.add_argument(
        "--psf",
        choices=("file", "stars"),
        help="where the PSF comes from: from the file where it has one, or always from the stars (file)",
    )
    group.add_argument("--filter", dest="physical_filter", metavar="NAME", help="full name of the filter")


def _hdu(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of `str`, optional
        Arguments; those of the process by default.

    Returns
    -------
    status : `int`
        Number of files that failed, at most `MAX_STATUS`; 2 for a wrong
        command line, 130 after an interrupt.
    """
    args = build_parser().parse_args(argv)
    level = "WARNING" if args.loglevel == "warn" else args.loglevel.upper()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("lsst.twinkles").setLevel(level)
    from ..pipeline.repository import RepositoryError
    from ..pipeline.staging import OutputWriteError

    try:
        return _ingest(args)
    except (RepositoryError, OutputWriteError) as error:
        print(f"{_PROG}: error: {error}", file=sys.stderr)
        return min(len(args.files), MAX_STATUS)
    except KeyboardInterrupt:
        print(f"{_PROG}: error: interrupted", file=sys.stderr)
        return 130


def _ingest(args: argparse.Namespace) -> int:
    """Add what was asked for, say what became of it, return the exit status."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    from ..pipeline.ingest import ExposureIngester
    from ..pipeline.repository import open_writeable_repository

    options: dict[str, Any] = {} if args.compression is None else {"compression": args.compression}
    on_existing: OnExisting = "replace" if args.replace else "skip" if args.skip_existing else "fail"
    bar = tqdm(total=len(args.files), unit="file", disable=len(args.files) < 2 or not sys.stderr.isatty())
    with open_writeable_repository(args.repo) as butler, bar, logging_redirect_tqdm():
        with ExposureIngester(butler, run=args.run, on_existing=on_existing, **options) as ingester:
            is_interrupted = _add_files(args, ingester, bar)
        report = ingester.report
        for label, error in report.failed.items():
            _LOG.error("%s", _describe(label, error))
    # A file given twice has one entry among the failures: count what is left.
    n_failed = len(args.files) - len(report.ingested) - len(report.skipped)
    print(_closing_line(args, report, n_failed))
    if is_interrupted:
        print(f"{_PROG}: error: interrupted; --skip-existing goes on from here", file=sys.stderr)
        return 130
    return min(n_failed, MAX_STATUS)


def _add_files(args: argparse.Namespace, ingester: ExposureIngester, bar: Any) -> bool:
    """Add files one by one; return whether that was interrupted."""
    from ..pipeline.staging import OutputWriteError

    failed = ingester.report.failed
    for i, path in enumerate(args.files):
        try:
            image, visit = _read(args, i)
            ingester.add(image, visit=visit, label=str(path))
        except KeyboardInterrupt:
            # What is complete is registered on the way out.
            return True
        except OutputWriteError as error:
            failed[str(path)] = error
            not_tried = OSError("not tried, because the one before could not be written")
            failed.update(dict.fromkeys(map(str, args.files[i + 1 :]), not_tried))
            return False
        except (ValueError, OSError) as error:
            failed[str(path)] = error
        except Exception as error:  # a file that nobody foresaw must not stop the others
            _LOG.debug("Traceback of the failure of %s:", path, exc_info=True)
            failed[str(path)] = error
        bar.update()
    return False


def _read(args: argparse.Namespace, index: int) -> tuple[VisitImage, int | None]:
    """Read one of the files and find its visit number; `None` leaves that to the image."""
    from ..adapters.read_exposure import read_exposure

    path = args.files[index]
    visit = None if args.visit is None else args.visit + index
    if args.visit_key is not None:
        visit = _read_visit_key(path, args.visit_key)
    options = {name: value for name in _READING if (value := getattr(args, name)) is not None}
    image = read_exposure(path, visit=visit, **options)
    if image.band == "unknown":
        _LOG.warning('%s: no filter is named in the file: band "unknown"; give one with --band.', path.name)
    return image, visit


def _read_visit_key(path: Path, key: str) -> int:
    """Return the whole number that a keyword has in the first HDU that has it."""
    from ..adapters.fits_files import UnreadableExposureError, open_fits

    with open_fits(path) as hdus:
        values = [hdu.header[key] for hdu in hdus if key in hdu.header]
    try:
        return int(values[0])
    except IndexError:
        problem = f"no header has the keyword {key}"
    except (TypeError, ValueError):
        problem = f"the keyword {key} is {values[0]!r} and not a whole number"
    raise UnreadableExposureError(path, problem, "Name another --visit-key, or give the number with --visit")


def _describe(label: str, error: Exception) -> str:
    """Return the sentence on a failure, with the name of the file in it."""
    text = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
    return text if label in text else f"{label}: {text}"


def _closing_line(args: argparse.Namespace, report: IngestReport, n_failed: int) -> str:
    """Say what is there now."""
    visits = [ref.dataId["visit"] for ref in report.ingested]
    line = f"Added to {args.repo}: {len(visits)} of {len(args.files)} exposures"
    if visits:
        shown = ", ".join(map(str, visits[:10])) + (", ..." if len(visits) > 10 else "")
        line += f" (visit {shown})"
    if report.skipped:
        line += f"; {len(report.skipped)} were there already"
    return f"{line}; {n_failed} failed." if n_failed else f"{line}."


if __name__ == "__main__":
    sys.exit(main())
