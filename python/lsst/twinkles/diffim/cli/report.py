"""The command ``reportImageDifference.py``: a page of figures and pictures for each difference image."""

from __future__ import annotations

__all__ = ("build_parser", "main")

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .finished_runs import add_run_options, find_science, read_ids

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef

    from ..report.page import ReportInputs

_PROG = "reportImageDifference.py"
_LOG = logging.getLogger(__name__)

_EPILOG = """\
OUT is the output repository of imageDifference.py. Each page is one HTML file with its pictures inside it:
verdict and figures of quality, the difference with its detections, cutouts, residuals at the kernel stars,
the kernel at nine positions, autocorrelation of the noise, fluxes of blank sky over their errors, dipoles,
and maps of what the difference is like all over the image. index.html lists the pages.

The exit status is the number of pages that could not be written, 255 at most; 1 too if there was nothing to
write a page of; 2 for a wrong command line.
"""
MAX_STATUS = 255


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line (`argparse.ArgumentParser`)."""
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="Write pages of figures and pictures that tell how good difference images are.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("repo", metavar="OUT", type=Path, help="output repository of imageDifference.py")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="directory of the pages")
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
        Number of pages that could not be written; 1 too if there was nothing to do, 2 for a wrong command
        line, 130 after an interrupt.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    ids = read_ids(parser, args)
    from ..pipeline.data_ids import DataIdError
    from ..pipeline.repository import RepositoryError

    try:
        return _write_pages(args, ids)
    except DataIdError as error:
        parser.error(f"argument --id: {error}")
    except (RepositoryError, OSError) as error:
        print(f"{_PROG}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{_PROG}: interrupted; pages that are there are complete", file=sys.stderr)
        return 130


def _write_pages(args: argparse.Namespace, ids: list[dict[str, str]]) -> int:
    """Write a page for each difference image, and the index."""
    from ..pipeline.data_ids import find_exposures
    from ..pipeline.repository import open_input_repository
    from ..report.page import write_index, write_page

    run, failed = f"{args.coadd_name}Diff", 0
    entries: list[tuple[str, str, dict[str, Any]]] = []
    with closing(open_input_repository(args.repo)) as butler:
        selection = find_exposures(butler, ids, f"{run}_differenceExp", run)
        for data_id in selection.missing:
            _LOG.warning("No %s_differenceExp found for dataId=%s in %s; skipped.", run, data_id, args.repo)
        if not selection.refs:
            print(f"{_PROG}: error: there is nothing to report on in {args.repo}", file=sys.stderr)
            return 1
        args.output.mkdir(parents=True, exist_ok=True)
        for ref in dict.fromkeys(selection.refs):
            name = f"v{ref.dataId['visit']}-d{ref.dataId['detector']}.html"
            try:
                inputs = _read_inputs(butler, ref, run, args.repo)
                write_page(inputs, args.output / name)
            except Exception as error:  # one damaged result must not keep the others from a page
                _LOG.error("No page for %s: %s: %s", dict(ref.dataId.required), type(error).__name__, error)
                failed += 1
                continue
            entries.append((inputs.label, name, dict(inputs.metrics)))
    write_index(entries, args.output / "index.html")
    print(f"Wrote {len(entries)} page{'' if len(entries) == 1 else 's'}: {args.output / 'index.html'}")
    return min(failed, MAX_STATUS)


def _read_inputs(butler: Butler, ref: DatasetRef, run: str, repo: Path) -> ReportInputs:
    """Read all that there is of a difference image."""
    from ..report.page import ReportInputs

    def get(name: str) -> Any:
        found = butler.find_dataset(f"{run}_{name}", ref.dataId, collections=run) if name in kinds else None
        return None if found is None else butler.get(found)

    prefix = f"{run}_"
    kinds = {t.name.removeprefix(prefix) for t in butler.registry.queryDatasetTypes(f"{prefix}*")}
    label = ", ".join(f"{key} {ref.dataId[key]}" for key in ("visit", "detector", "band"))
    return ReportInputs(
        label=f"{run}: {label}",
        difference=butler.get(ref),
        science=find_science(repo, ref),
        matched=get("matchedExp"),
        sources=get("diaSrc"),
        kernel_sources=get("kernelSrc"),
        metrics=get("metrics") or {},
        spatial=get("spatiallySampledMetrics"),
    )


if __name__ == "__main__":
    sys.exit(main())
