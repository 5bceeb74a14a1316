#!/usr/bin/env python
"""How good the differences are: figures of merit on simulated pairs, beside the best possible.

Writes ./quality/quality.txt and ./quality/quality.json. Called by ``make quality``.
Where the common evaluator lies in ../shared/eval it is run as well, and what other
codes reached there is printed below our own rows.

    sigma   scatter of blank sky over the true noise (1: whitened)
    claimed scatter of blank sky over the claimed noise (1: the variance plane is true)
    mf      scatter of PSF fluxes of blank sky over their claimed errors (1)
    ac1     correlation of neighbouring pixels of blank sky (0: white)
    star    rms residual PSF flux of bright static stars over its error (1)
    bias    median flux error of transients of S/N > 10, percent (0)
    scat    scatter of transient fluxes over the best possible error (1)
    compl   fraction of the transients of S/N >= 5 that are found
    false   detections that nothing explains
    masked  percent of the pixels that were good and are masked in the difference
    cat     fraction of all true changes of S/N >= 5 (variable stars too) in the catalogue
    cat.f   sources of the catalogue, without those flagged, that nothing explains
    s, CPU  seconds of the task without detection: wall clock, and of all processors

All but cat and cat.f come from the pixels, the PSF and the variance plane alone: peaks
above 5 sigma of the noise that is there, away from the rim and from saturated pixels.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common_evaluator import find_evaluator, make_shared_pair, read_transients, score_oracle, score_result
from peers import COLUMNS as PEER_COLUMNS
from peers import PEERS
from stages import Clock

from lsst.twinkles.diffim.algorithms.robust import robust_scatter

if TYPE_CHECKING:
    from lsst.images import VisitImage

CASES = ("std", "rev", "eq", "shift", "exact")
UNUSABLE = ("NO_DATA", "BAD", "SATURATED", "SAT_TEMPLATE", "COSMIC_RAY", "DETECTION_EDGE")
FLAGS = ("centroid_flag", "psfFlux_flag", "pixelFlags", "pixelFlags_edge")
ORACLE, OURS = "oracle", "this package"

# name in the score, heading, format
_TABLE = (
    ("sigma", "sigma", "{:.3f}"),
    ("claimed", "claimed", "{:.3f}"),
    ("matched_filter", "mf", "{:.3f}"),
    ("ac1", "ac1", "{:+.4f}"),
    ("star", "star", "{:.2f}"),
    ("bias", "bias", "{:+.2f}"),
    ("scatter", "scat", "{:.2f}"),
    ("completeness", "compl", "{:.3f}"),
    ("false", "false", "{:.1f}"),
    ("masked", "masked", "{:.2f}"),
    ("catalogue", "cat", "{:.3f}"),
    ("catalogue_false", "cat.f", "{:.1f}"),
    ("seconds", "s", "{:.2f}"),
    ("cpu", "CPU", "{:.2f}"),
)


# What a figure should be, 0 if it is not here.
_IDEAL = dict.fromkeys(("sigma", "claimed", "matched_filter", "scatter", "completeness", "catalogue"), 1.0)


@dataclasses.dataclass(frozen=True)
class Subtracted:
    """What the task made of a pair."""

    arrays: dict[str, np.ndarray]
    psf: Any
    sources: Any
    times: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Row:
    """Scores of one difference."""

    judge: str
    case: str
    seed: int
    code: str
    scores: dict[str, float]
    # Measured flux, true flux and ideal error of each transient.
    transients: list[list[float]] = dataclasses.field(default_factory=list)


def main() -> int:
    """Score, print, write; return the exit status."""
    args = parse_arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    # Piff and galsim warn of what does not concern a reader of figures.
    warnings.filterwarnings("ignore")
    rows = list(score_own_pairs(args)) if args.own else []
    if args.evaluator and find_evaluator() is not None:
        rows += score_shared_pairs(args)
    text = format_rows(rows, args.size)
    print(f"\n{text}")
    (args.output / "quality.txt").write_text(f"{' '.join(sys.argv)}\n\n{text}\n")
    (args.output / "quality.json").write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    print(f"\nWritten to {args.output}/quality.txt and quality.json.")
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1024", help="pixels, as 1024 or as 4000x4072 (1024)")
    parser.add_argument("--seeds", default="1..3", help="as 1..3 or 1,5,7 (1..3)")
    parser.add_argument("--cases", default=",".join(CASES), help=f"some of {','.join(CASES)} (all)")
    parser.add_argument("--mode", help="convolveTemplate, convolveScience or auto (the task's default)")
    parser.add_argument(
        "--task", choices=("twinkles", "base"), default="twinkles", help="which task (twinkles)"
    )
    parser.add_argument("-c", "--config", nargs="+", default=[], metavar="NAME=VALUE", help="override fields")
    parser.add_argument("--output", type=Path, default=Path("quality"), help="directory (quality)")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/quality"), help="directory of shared pairs"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--no-evaluator", dest="evaluator", action="store_false", help="only our own pairs")
    which.add_argument("--no-own", dest="own", action="store_false", help="only those of the evaluator")
    args = parser.parse_args()
    args.cases = args.cases.split(",")
    if unknown := set(args.cases) - set(CASES):
        parser.error(f"--cases has {', '.join(sorted(unknown))}; known are {', '.join(CASES)}")
    nx, _, ny = args.size.partition("x")
    if not nx.isdigit() or not (ny or nx).isdigit():
        parser.error(f"--size must be like 1024 or 4000x4072; got {args.size}")
    args.shape = (int(ny or nx), int(nx))
    try:
        first, _, last = args.seeds.partition("..")
        args.seeds = (
            list(range(int(first), int(last) + 1)) if last else [int(s) for s in args.seeds.split(",")]
        )
    except ValueError:
        parser.error(f"--seeds must be like 1..3 or 1,5,7; got {args.seeds}")
    return args


def make_task(args: argparse.Namespace) -> Any:
    """Return the task, configured."""
    from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceTask
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    kind = TwinklesImageDifferenceTask if args.task == "twinkles" else ImageDifferenceTask
    config = kind.ConfigClass()
    if args.mode:
        config.subtract.mode = args.mode
    for item in args.config:
        name, _, value = item.partition("=")
        set_field(config, name, value)
    config.validate()
    return kind(config=config)


def set_field(config: Any, name: str, value: str) -> None:
    """Set a field by its dotted name; JSON values, or words."""
    *path, last = name.split(".")
    for part in path:
        config = getattr(config, part)
    if last != "name" and hasattr(config, "active"):
        config = config.active  # of a choice, as -c of the commands does
    try:
        setattr(config, last, json.loads(value.lower() if value in ("True", "False") else value))
    except json.JSONDecodeError:
        setattr(config, last, value)


def subtract(args: argparse.Namespace, science: VisitImage, template: VisitImage) -> Subtracted:
    """Run the task; time it without detection and measurement."""
    from lsst.twinkles.diffim.adapters.masks import bad_pixels
    from lsst.twinkles.diffim.adapters.psfs import sample_psf

    task, clock = make_task(args), Clock()
    for name in ("detection", "measurement"):
        if subtask := getattr(task, name, None):
            subtask.run = clock.time("catalogue", subtask.run)
    result = clock.time("all", task.run)(science, template)
    nothing = {"wall": 0.0, "cpu": 0.0}
    catalogue = clock.times.get("catalogue", nothing)
    times = {key: clock.times["all"][key] - catalogue[key] for key in nothing}
    difference = result.subtractedExposure
    arrays = {
        "difference": difference.image.array,
        "variance": difference.variance.array,
        "masked": bad_pixels(difference.mask, UNUSABLE),
    }
    return Subtracted(
        arrays=arrays,
        psf=sample_psf(difference.psf, difference.bbox),
        sources=result.diaSources,
        times={"seconds": times["wall"], "cpu": times["cpu"]},
    )


def score_catalogue(sources: Any, truth: Any, masked: np.ndarray) -> dict[str, float]:
    """Return what of the truth on good pixels is in the catalogue, and how much that is not true."""
    from lsst.twinkles.diffim.report.summary import compare_with_truth

    if sources is None:
        return {}
    flagged = np.logical_or.reduce([np.asarray(sources[name], dtype=bool) for name in FLAGS])
    column, row = (np.round(np.asarray(truth[name])).astype(int) for name in ("x", "y"))
    comparison = compare_with_truth(sources[~flagged], truth[~masked[row, column]])
    return {"catalogue": comparison.completeness, "catalogue_false": comparison.n_false}


def score_own_pairs(args: argparse.Namespace) -> Any:
    """Score differences of our own simulated pairs, and the best possible ones."""
    from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
    from lsst.twinkles.diffim.simulation.oracle import proper_difference, proper_variance
    from lsst.twinkles.diffim.simulation.pairs import simulate_pair
    from lsst.twinkles.diffim.simulation.scoring import score_difference

    warm = simulate_pair("std", seed=1, nx=300, ny=300)
    subtract(args, warm.science, warm.template)  # compiles
    for case in args.cases:
        for seed in args.seeds:
            say(f"own pair {case} {args.size} seed {seed}")
            pair = simulate_pair(case, seed=seed, nx=args.shape[1], ny=args.shape[0])
            best, stamp = proper_difference(pair)
            masked = np.logical_or.reduce(
                [e.mask.get(plane) for e in (pair.science, pair.template) for plane in ("SATURATED", "BAD")]
            )
            oracle = score_difference(
                pair,
                difference=best,
                variance=proper_variance(pair),
                masked=masked,
                psf=PsfGrid.constant(stamp),
            )
            score = dataclasses.asdict(oracle)
            transients = score.pop("transients")
            yield Row("own", case, seed, ORACLE, score, transients)
            done = subtract(args, pair.science, pair.template)
            score = dataclasses.asdict(score_difference(pair, psf=done.psf, **done.arrays))
            catalogue = score_catalogue(done.sources, pair.truth, done.arrays["masked"])
            transients = score.pop("transients")
            yield Row("own", case, seed, OURS, score | catalogue | done.times, transients)


def score_shared_pairs(args: argparse.Namespace) -> Any:
    """Score differences with the common evaluator."""
    from lsst.twinkles.diffim.adapters.read_exposure import read_exposure

    for case in args.cases:
        for seed in args.seeds:
            say(f"common evaluator: {case} {args.size} seed {seed}")
            pair = make_shared_pair(case, seed, args.shape, args.cache)
            yield Row("evaluator", case, seed, ORACLE, score_oracle(pair), read_transients(pair / "oracle"))
            science, template = (
                read_exposure(pair / f"{name}.fits", visit=visit, band="r", mask_planes={0: "BAD", 1: "SAT"})
                for visit, name in ((2, "sci"), (1, "tmpl"))
            )
            done = subtract(args, science, template)
            score = score_result(pair, pair / "ours", done.arrays, done.psf)
            yield Row("evaluator", case, seed, OURS, score | done.times, read_transients(pair / "ours"))


def say(text: str) -> None:
    """Report progress on the terminal."""
    print(f"\r\033[K{text} ...", end="", file=sys.stderr, flush=True)


def format_rows(rows: list[Row], size: str) -> str:
    """Write tables: medians and worst over the seeds, ours below the best possible, then the peers."""
    lines = []
    for judge, title in (
        ("own", "Our own pairs"),
        ("evaluator", "Pairs and scores of the common evaluator (../shared/eval)"),
    ):
        mine = [row for row in rows if row.judge == judge]
        if not mine:
            continue
        seeds = sorted({row.seed for row in mine})
        lines += [
            f"{title}: {size} pixels, median and worst of seeds {', '.join(map(str, seeds))}",
            f"{'':26s}" + "".join(f"{heading:>9s}" for _, heading, _ in _TABLE),
        ]
        for case in dict.fromkeys(row.case for row in mine):
            for code in (ORACLE, OURS):
                chosen = [row.scores for row in mine if (row.case, row.code) == (case, code)]
                lines.append(_line(case, code, typical(chosen)))
                if len(chosen) > 1:
                    lines.append(_line("", f"{code}, worst", worst(chosen)))
            if judge == "evaluator" and size == "1024":
                lines += [
                    _line(case, code, dict(zip(PEER_COLUMNS, values, strict=True)))
                    for code, values in PEERS.get(case, {}).items()
                ]
        lines += ["", *_pooled_fluxes(mine), ""]
    return "\n".join(lines).rstrip()


def _pooled_fluxes(rows: list[Row]) -> list[str]:
    """Return lines on the fluxes of the transients of all seeds: one alone has but few."""
    cases = dict.fromkeys(row.case for row in rows if row.transients)
    if not cases:
        return []
    found = {
        (case, code): np.concatenate([r.transients for r in rows if (r.case, r.code) == (case, code)])
        for case in cases
        for code in (ORACLE, OURS)
    }
    found |= {("all", code): np.concatenate([found[case, code] for case in cases]) for code in (ORACLE, OURS)}
    lines = ["Scatter of transient fluxes (S/N > 5) over the best possible error, all seeds together"]
    for case in [*cases, "all"]:
        cells = [f"{code} {_pooled_scatter(found[case, code])}" for code in (ORACLE, OURS)]
        lines.append(f"{case:6s}{'; '.join(cells)}")
    lines += ["", "Bias of transient fluxes (S/N > 10), percent, all seeds together"]
    for case in [*cases, "all"]:
        best, ours = found[case, ORACLE], found[case, OURS]
        cells = [f"{code} {_pooled_bias(t)}" for code, t in ((ORACLE, best), (OURS, ours))]
        # Both have the same noise: what is between them is known much better than either.
        between = np.column_stack([best[:, 1] + ours[:, 0] - best[:, 0], best[:, 1:]])
        cells.append(f"between them {_pooled_bias(between)}")
        lines.append(f"{case:6s}{'; '.join(cells)}")
    return lines


def _pooled_scatter(transients: np.ndarray) -> str:
    measured, true, error = transients[np.isfinite(transients[:, 0])].T
    pulls = ((measured - true) / error)[np.abs(true) > 5 * error]
    width = robust_scatter(pulls)
    # Error of a median absolute deviation of normal values.
    return f"{width:.3f} +- {1.17 * width / np.sqrt(len(pulls)):.3f} of {len(pulls)}"


def _pooled_bias(transients: np.ndarray) -> str:
    """Weighted mean of measured over true flux, less one, percent; none weighs more than one of S/N 100."""
    measured, true, error = transients[np.isfinite(transients[:, 0])].T
    bright = np.abs(true) > 10 * error
    excess, width = (measured / true - 1)[bright], (error / np.abs(true))[bright]
    weight = 1 / (width**2 + 0.01**2)
    mean = np.average(excess, weights=weight)
    # Of the values themselves: how far they scatter is not taken from the errors.
    scatter = np.sqrt(np.sum(weight**2 * (excess - mean) ** 2)) / weight.sum()
    return f"{100 * mean:+.2f} +- {100 * scatter:.2f}"


def worst(scores: list[dict[str, float]]) -> dict[str, float]:
    """Return the value of each figure over the seeds that is farthest from what it should be."""
    result = {}
    for name in scores[0]:
        values = np.array([score[name] for score in scores], float)
        ideal = _IDEAL.get(name, 0.0)
        known = np.flatnonzero(np.isfinite(values))
        result[name] = float(values[known[np.abs(values[known] - ideal).argmax()]]) if len(known) else np.nan
    return result


def typical(scores: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the seeds."""
    return {name: float(np.nanmedian([score[name] for score in scores])) for name in scores[0]}


def _line(case: str, code: str, scores: dict[str, Any]) -> str:
    """Write one row."""
    cells = []
    for name, _, form in _TABLE:
        value = scores.get(name)
        known = value is not None and np.isfinite(value)
        cells.append(f"{form.format(value) if known else '':>9s}")
    return f"{case:6s}{code:20s}" + "".join(cells)


if __name__ == "__main__":
    sys.exit(main())
