"""The command ``twinklesInABox.py``: a survey simulated, processed and shown."""

from __future__ import annotations

__all__ = ("build_parser", "main")

import argparse
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_LOG = logging.getLogger("lsst.twinkles.diffim.box")

_DESCRIPTION = """\
Twinkles in a box: visits of a patch of the CCD with the seeing, sky and cadence of the survey's Run 1, a
template chosen for each, difference images, and, from the first season, a coadded template for those of the
later ones.

DIR gets the simulated visits (repo, with the truth), the differences (out) and a page that shows light curves
of supernovae and lensed quasars against the truth, cutouts, the choice of templates and depths:
DIR/index.html.
"""

_MINIMUM_VISITS = 6


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line (`argparse.ArgumentParser`)."""
    parser = argparse.ArgumentParser(
        prog="twinklesInABox.py",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="where to work; made if it is not there")
    parser.add_argument("--visits", type=int, default=60, metavar="N", help="visits (60)")
    parser.add_argument(
        "--years", type=float, default=3.0, help="seasons they are spread over (3: 20 a season, as in Run 1)"
    )
    parser.add_argument("--band", default="r", choices=list("ugrizy"), help="band of the visits (r)")
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="pixels on a side of the patch (512)"
    )
    parser.add_argument(
        "--overload", type=float, default=8.0, help="factor on supernovae and lenses, for a small patch (8)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of everything (1)")
    parser.add_argument(
        "--separation",
        type=float,
        default=120.0,
        metavar="DAYS",
        help="days between template and science visit at least, so that supernovae are not in both (120)",
    )
    parser.add_argument("-j", "--processes", type=int, default=2, metavar="N", help="processes (2)")
    parser.add_argument("--clobber", action="store_true", help="delete what an earlier run left in DIR first")
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
        0 if the page was made, 1 if not, 2 for bad usage.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.visits < _MINIMUM_VISITS:
        parser.error(f"--visits must be at least {_MINIMUM_VISITS}, got {args.visits}")
    if args.processes < 1:
        parser.error(f"-j must be at least 1, got {args.processes}")
    logging.basicConfig(
        level=logging.WARNING, format="%(name)s %(levelname)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("lsst.imageDifference").setLevel(logging.WARNING)
    start = time.monotonic()
    steps = (
        ("simulating the visits", _simulate),
        ("choosing templates, subtracting", _subtract),
        ("a coadded template of the first season, subtracting", _subtract_coadd),
        ("measuring and drawing", _show),
    )
    if args.clobber:
        for name in ("repo", "out"):
            shutil.rmtree(args.directory / name, ignore_errors=True)
    args.directory.mkdir(parents=True, exist_ok=True)
    for number, (text, step) in enumerate(steps, start=1):
        print(f"[{number}/{len(steps)}] {text} ...", flush=True)
        begin = time.monotonic()
        status = step(args)
        print(f"      {time.monotonic() - begin:.0f} s", flush=True)
        if status:
            print(f"twinklesInABox.py: stopped at '{text}'; see the messages above.", file=sys.stderr)
            return 1
    print(f"{time.monotonic() - start:.0f} s in all. Look at {args.directory / 'index.html'}")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    from .simulate import main as simulate

    words = [
        str(args.directory / "repo"),
        "--no-cookbook",
        "--visits",
        str(args.visits),
        "--bands",
        args.band,
    ]
    words += ["--years", str(args.years), "--size", str(args.size), str(args.size), "--seed", str(args.seed)]
    words += ["--overload", str(args.overload), "-j", str(args.processes)]
    return simulate(words)


def _subtract(args: argparse.Namespace) -> int:
    """Subtract from every visit the template that is chosen for it."""
    from .image_difference import main as subtract

    words = [str(args.directory / "repo"), "--id", "--output", str(args.directory / "out")]
    words += ["-c", f"selectTemplate.minTimeSeparation={args.separation:g}"]
    words += ["-j", str(args.processes), "-L", "warn", "--noExit", "--no-versions"]
    return subtract(words)


def _subtract_coadd(args: argparse.Namespace) -> int:
    """Coadd the first season, and subtract that from the visits of the later ones."""
    from .box_coadds import FIRST_SEASON_DAYS, subtract_coadd

    n = subtract_coadd(args.directory / "repo", season=FIRST_SEASON_DAYS)
    if n == 0:
        _LOG.warning("There are no later seasons (--years), so that nothing is subtracted from a coadd.")
    return 0


def _show(args: argparse.Namespace) -> int:
    """Measure light curves and depths, and write the page."""
    from .box_page import BoxResults, write_box_page

    results = BoxResults.collect(args.directory)
    write_box_page(results, args.directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
