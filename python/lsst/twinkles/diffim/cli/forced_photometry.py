"""The command ``forcedPhotometry.py``: PSF fluxes where a table says, on the images of finished runs."""

from __future__ import annotations

__all__ = ("build_parser", "main")

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .finished_runs import (
    FinishedDifference,
    UnreadableRunError,
    add_run_options,
    is_result_directory,
    read_directory,
    read_finished,
    read_ids,
)
from .position_tables import FORMATS, PositionsError, read_positions

if TYPE_CHECKING:
    from astropy.table import Table

_PROG = "forcedPhotometry.py"
_LOG = logging.getLogger(__name__)
_WRITABLE = (".parquet", ".parq", ".ecsv")
MAX_STATUS = 255

_EPILOG = """\
RESULTS is an output repository of imageDifference.py, or a directory of subtractExposures.py. POSITIONS is a
table (CSV, ECSV, FITS or parquet) with columns ra and dec (degrees, or the unit that the file gives), or x
and y (pixels; of one image only); other columns, such as an identifier, are handed on.

FILE (.parquet or .ecsv, with units) gets one row for each position and image: visit, detector, band, time,
x, y, and psfFlux (on the difference), scienceFlux and templateFlux with their errors. Positions that are not
finite, off the image, or all under masks stay, with flags (psfFlux_flag, ...), and fluxes that are NaN.

The exit status is the number of images that could not be measured, 255 at most; 1 too if nothing could be
read or written; 2 for a wrong command line.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line (`argparse.ArgumentParser`)."""
    parser = argparse.ArgumentParser(
        prog=_PROG,
        usage=f"{_PROG} RESULTS POSITIONS --output FILE [options]",
        description="Measure PSF fluxes at given positions on difference, science image and template.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", metavar="RESULTS", type=Path, help="repository or directory of results")
    parser.add_argument("positions", metavar="POSITIONS", type=Path, help="file of positions")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="table to write")
    parser.add_argument("--clobber", action="store_true", help="replace FILE if it is there")
    add_run_options(parser)
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
        Number of images that could not be measured; 1 too if nothing could be read or written, 2 for a wrong
        command line, 130 after an interrupt.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    if args.output.suffix not in _WRITABLE:
        parser.error(f"argument --output: {args.output} must end in {' or '.join(_WRITABLE)}")
    if args.output.exists() and not args.clobber:
        parser.error(f"argument --output: {args.output} is there already; give another, or --clobber")
    ids = read_ids(parser, args)
    from ..pipeline.data_ids import DataIdError
    from ..pipeline.repository import RepositoryError

    try:
        return _measure_all(args, ids)
    except DataIdError as error:
        parser.error(f"argument --id: {error}")
    except (PositionsError, RepositoryError, UnreadableRunError, OSError) as error:
        print(f"{_PROG}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{_PROG}: interrupted; nothing was written", file=sys.stderr)
        return 130


def _measure_all(args: argparse.Namespace, ids: list[dict[str, str]]) -> int:
    """Measure every image, and write all rows when they are there."""
    from astropy.table import vstack
    from tqdm import tqdm

    from ..tasks.forced_measurement import ForcedMeasurementTask

    positions = read_positions(args.positions)
    task, tables, failed = ForcedMeasurementTask(), [], 0
    images_shown = tqdm(_find_images(args, ids), unit=" images", leave=False, disable=None)
    for number, (label, load) in enumerate(images_shown, start=1):
        if number > 1 and "ra" not in positions.colnames:
            raise PositionsError(
                f"{args.positions} has pixels, and there are several images: give ra and dec, or one --id."
            )
        try:
            images = load()
            result = task.run(
                images.difference,
                images.science,
                images.matched,
                positions,
                errorScale=images.error_scale,
            )
        except Exception as error:  # one damaged result must not keep the others from being measured
            _LOG.error("No fluxes of %s: %s: %s", label, type(error).__name__, error)
            failed += 1
            continue
        tables.append(result.forcedSources)
    if not tables:
        reason = "no image could be measured" if failed else "there is nothing to measure"
        print(f"{_PROG}: error: {reason} in {args.results}; nothing was written", file=sys.stderr)
        return 1
    table = vstack(tables, metadata_conflicts="silent")
    _write(table, args.output)
    flagged = int(table["psfFlux_flag"].sum())
    print(f"Wrote {args.output}: {len(table)} rows of {len(tables)} images, {flagged} without psfFlux.")
    return min(failed, MAX_STATUS)


def _find_images(
    args: argparse.Namespace, ids: list[dict[str, str]]
) -> Iterator[tuple[str, Callable[[], FinishedDifference]]]:
    """Yield what each image is called and how it is read."""
    from ..pipeline.data_ids import find_exposures
    from ..pipeline.repository import open_input_repository

    if is_result_directory(args.results):
        if any(ids):
            raise PositionsError(f"{args.results} holds one difference, for which there is no --id.")
        yield str(args.results), partial(read_directory, args.results)
        return
    run = f"{args.coadd_name}Diff"
    with closing(open_input_repository(args.results)) as butler:
        selection = find_exposures(butler, ids, f"{run}_differenceExp", run)
        for data_id in selection.missing:
            _LOG.warning("No %s_differenceExp found for dataId=%s; skipped.", run, data_id)
        for ref in dict.fromkeys(selection.refs):
            label = ", ".join(f"{key} {value}" for key, value in ref.dataId.required.items())
            yield label, partial(read_finished, butler, ref, run, args.results)


def _write(table: Table, path: Path) -> None:
    """Write a table beside its place, then put it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.stem}.") as directory:
        made = Path(directory) / path.name
        table.write(made, format=FORMATS[path.suffix])
        made.replace(path)


if __name__ == "__main__":
    sys.exit(main())
