"""The command ``simulateTwinkles.py``: a repository of simulated visits, with the truth."""

from __future__ import annotations

__all__ = ("build_parser", "main")

import argparse
import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

    from ..simulation.campaign import Campaign

_LOG = logging.getLogger("lsst.twinkles.diffim.simulate")

_DESCRIPTION = """\
Simulate visits of the Twinkles field and put them into a repository.

Without further options REPO holds the pair of visits of the Twinkles
cookbook: 230 (i, seeing 1.00") and 250 (i, seeing 0.74"), so that

    imageDifference.py REPO --id visit=230 --templateId visit=250 --output OUT

works as typed. In the visit list of Twinkles Run 1 visit 250 is a z exposure
of 1.11"; --run1-filters makes the pair as it is there.
"""

_EPILOG = """\
The truth is in REPO/truth: visit-<number>.parquet (every variable thing, its
flux in nJy and its pixel), stars, galaxies and lenses of the field, and
scene.json. The same seed and size give the same field; visits may be added by
further calls.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line (`argparse.ArgumentParser`)."""
    parser = argparse.ArgumentParser(
        prog="simulateTwinkles.py",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("repo", metavar="REPO", type=Path, help="repository; made if it is not there")
    parser.add_argument("--db", metavar="URL", help="database of a new repository (default: SQLite in REPO)")
    parser.add_argument(
        "--truth", type=Path, metavar="DIR", help="directory of the truth (default: REPO/truth)"
    )
    parser.add_argument("-j", "--processes", type=int, default=1, metavar="N", help="visits at a time (1)")
    which = parser.add_argument_group("which visits")
    which.add_argument("--visits", type=int, default=0, metavar="N", help="N visits drawn from Run 1 (0)")
    which.add_argument("--bands", default="ugrizy", help="bands of those visits (ugrizy)")
    which.add_argument("--years", type=float, default=10.0, help="years over which they are spread (10)")
    which.add_argument("--first-visit", type=int, default=1000, help="number of the first of them (1000)")
    which.add_argument("--no-cookbook", action="store_true", help="leave out visits 230 and 250")
    which.add_argument("--run1-filters", action="store_true", help="visit 250 in z with 1.11 arcsec")
    which.add_argument("--dither", type=float, default=0.0, metavar="PIXEL", help="rms pointing offset (0)")
    which.add_argument("--rotate", type=float, default=0.0, metavar="DEG", help="rms camera rotation (0)")
    field = parser.add_argument_group("the field")
    field.add_argument("--seed", type=int, default=1, help="seed of everything (1)")
    field.add_argument(
        "--size", type=int, nargs=2, default=(4000, 4072), metavar=("NX", "NY"), help="pixels (4000 4072)"
    )
    field.add_argument("--overload", type=float, default=1.0, help="factor on supernovae and lenses (1)")
    field.add_argument(
        "--variable-stars",
        type=float,
        default=0.03,
        metavar="F",
        help="fraction of the stars that varies (0.03)",
    )
    field.add_argument("--cosmic-rays", type=float, default=0.0, help="cosmic rays on a whole CCD (0)")
    field.add_argument(
        "--jitter", type=float, default=0.03, metavar="PIXEL", help="registration error (0.03)"
    )
    field.add_argument("--keep-sky", action="store_true", help="do not subtract the mean sky")
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
        0 if all visits are in the repository, 1 if not, 2 for bad usage.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.no_cookbook and args.visits < 1:
        parser.error("there is nothing to simulate: --no-cookbook needs --visits N")
    if args.processes < 1:
        parser.error(f"-j must be at least 1; got {args.processes}")
    logging.basicConfig(level=logging.INFO, format="%(name)s %(levelname)s: %(message)s", stream=sys.stderr)
    from ..pipeline.repository import RepositoryError

    try:
        return _simulate(args)
    except (RepositoryError, ValueError, OSError) as error:
        print(f"simulateTwinkles.py: error: {error}", file=sys.stderr)
        return 1


def _simulate(args: argparse.Namespace) -> int:
    """Simulate and ingest what was asked for."""
    from tqdm import tqdm

    from ..pipeline.ingest import ExposureIngester
    from ..pipeline.repository import create_repository, open_writeable_repository

    campaign = _plan(args)
    campaign.check_scene(_truth_directory(args))
    is_there = (args.repo / "butler.yaml").exists()
    butler = open_writeable_repository(args.repo) if is_there else create_repository(args.repo, db=args.db)
    with closing(butler):
        campaign.write_scene(_truth_directory(args))
        campaign = _leave_out_known(campaign, butler)
        bar = tqdm(total=len(campaign.conditions), unit="visit", disable=not sys.stderr.isatty())
        # A whole CCD is half a gigabyte in memory: register each as it comes.
        with bar, ExposureIngester(butler, batch_size=1) as ingester:
            for exposure, truth in campaign.run(processes=args.processes):
                ingester.add(exposure)
                campaign.write_visit_truth(truth, _truth_directory(args))
                bar.update()
    for label, error in ingester.report.failed.items():
        _LOG.error("%s: %s", label, error)
    for line in _closing_lines(args, campaign, len(ingester.report.ingested)):
        print(line)
    return 1 if ingester.report.failed else 0


def _plan(args: argparse.Namespace) -> Campaign:
    """Turn the options into what to simulate."""
    from ..simulation.campaign import Campaign
    from ..simulation.conditions import cookbook_conditions, sample_conditions
    from ..simulation.config import DetectorConfig, SceneConfig

    conditions = [] if args.no_cookbook else cookbook_conditions(run1_filters=args.run1_filters)
    if args.visits:
        conditions += sample_conditions(
            args.visits,
            seed=args.seed,
            bands=args.bands,
            years=args.years,
            first_visit=args.first_visit,
            dither=args.dither,
            rotation=args.rotate,
        )
    nx, ny = args.size
    return Campaign(
        scene=SceneConfig(
            nx=nx,
            ny=ny,
            seed=args.seed,
            overload=args.overload,
            variable_star_fraction=args.variable_stars,
        ),
        detector=DetectorConfig(
            cosmic_rays=args.cosmic_rays, jitter=args.jitter, subtract_sky=not args.keep_sky
        ),
        conditions=conditions,
    )


def _leave_out_known(campaign: Campaign, butler: Butler) -> Campaign:
    """Drop visits that the repository has, so that further calls add to it."""
    from ..pipeline.repository import EXPOSURE_DATASET_TYPE, default_collections

    refs = butler.query_datasets(
        EXPOSURE_DATASET_TYPE,
        collections=default_collections(butler) or "*",
        find_first=False,
        explain=False,
    )
    known = {ref.dataId["visit"] for ref in refs}
    here = [item.visit for item in campaign.conditions if item.visit in known]
    if here:
        _LOG.info("In the repository already, left as they are: visits %s.", ", ".join(map(str, here)))
    missing = [item for item in campaign.conditions if item.visit not in known]
    return dataclasses.replace(campaign, conditions=missing)


def _truth_directory(args: argparse.Namespace) -> Path:
    """Return where the truth goes."""
    return args.truth if args.truth is not None else args.repo / "truth"


def _closing_lines(args: argparse.Namespace, campaign: Campaign, count: int) -> Iterator[str]:
    """Say what there is now, and what to do with it."""
    yield f"Added to {args.repo}: {count} visits of {campaign.scene.nx} x {campaign.scene.ny} pixels."
    for item in campaign.conditions:
        yield f"  visit {item.visit}: {item.band}, MJD {item.mjd:.2f}, seeing {item.fwhm_eff:.2f} arcsec"
    yield f"The truth is in {_truth_directory(args)}."
    if not args.no_cookbook:
        yield (
            f"Next: imageDifference.py {args.repo} --id visit=230 --templateId visit=250 "
            "--output OUT --configfile config/diffimconfig.py"
        )


if __name__ == "__main__":
    sys.exit(main())
