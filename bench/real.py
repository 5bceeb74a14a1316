#!/usr/bin/env python
"""Differences of real exposures, as people have them, in figures. Called by ``make real``.

Every pair goes through subtractExposures.py with its default configuration. The exposures are public, but
not part of the project: three sets of files are looked for in a directory, and what is not there is left out.

    eso085  two frames of ESO 085-030, 74 seconds apart: nothing changes (properimage_eso085)
    decam   ten DECam frames of two nights, two years apart, resampled onto one grid (sfft_decam)
    isis    fifty frames of a crowded field with variable stars, not aligned, each against the first
            (isis_images2); the first against the second

    noise   scatter of blank sky over what the variance plane claims (1)
    lag 1   the largest correlation of pixels at that distance along x, y or both (0: white); lag 2
    mf      scatter of PSF fluxes of blank sky over their errors (1)
    scaled  what the variance was scaled by in the end: 1 if the noise of the inputs was known
    peaks   maxima of the PSF-filtered difference above 5 of its sigma: from its planes and its PSF alone
    found   sources in the catalogue above 5 sigma; flagged: of these, with a flag of the pixels or the fit
    by      method of subtraction and convolved image
    CPU     seconds of the command

A pair that is refused shows the message. Writes OUTPUT/real.txt and OUTPUT/real.json.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "real"
SETS = ("eso085", "decam", "isis")
N_EPOCHS = 50
THRESHOLD = 5.0
# Detections of the best other code (ISIS) on the first pair, and the departure from white noise aimed at.
MOST_PEAKS = 18
WHITE = 0.02
UNUSABLE = ("NO_DATA", "BAD", "SATURATED", "SAT_TEMPLATE", "DETECTION_EDGE")
FLAGS = ("centroid_flag", "psfFlux_flag", "pixelFlags")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two files, and the set they are of."""

    group: str
    name: str
    science: Path
    template: Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a pair: figures, or the message with which it was refused."""

    group: str
    name: str
    status: int
    message: str
    cpu: float
    figures: dict[str, Any]


def main() -> int:
    """Subtract, print, write; return 0 if every pair ended with a result or a message."""
    args = parse_arguments()
    pairs = [pair for group in args.sets for pair in find_pairs(args.data, group)]
    if not pairs:
        print(f"There are no exposures of {', '.join(args.sets)} in {args.data}; skipped.")
        return 0
    warnings.filterwarnings("ignore")  # galsim and Piff warn of what does not concern a reader of figures
    logging.disable(logging.CRITICAL)
    args.output.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for group in dict.fromkeys(pair.group for pair in pairs):
        print(f"{group}\n{heading()}", flush=True)
        mine = []
        for pair in pairs:
            if pair.group == group:
                mine.append(subtract(pair, args))
                print(row(mine[-1]), flush=True)
        print(f"{verdict(group, mine)}\n", flush=True)
        outcomes += mine
    write(outcomes, args.output)
    return int(any(outcome.status not in (0, 1) for outcome in outcomes))


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=DATA, help=f"directory of the sets ({os.path.relpath(DATA, ROOT)})"
    )
    parser.add_argument("--sets", default=",".join(SETS), help=f"some of {','.join(SETS)} (all)")
    parser.add_argument("--output", type=Path, default=Path("real"), help="directory (real)")
    parser.add_argument("--keep", action="store_true", help="keep images and catalogues in OUTPUT, too")
    parser.add_argument("-c", "--config", nargs="+", default=[], metavar="NAME=VALUE", help="override fields")
    args = parser.parse_args()
    args.sets = args.sets.split(",")
    if unknown := set(args.sets) - set(SETS):
        parser.error(f"--sets has {', '.join(sorted(unknown))}; known are {', '.join(SETS)}")
    return args


def find_pairs(data: Path, group: str) -> list[Pair]:
    """Return the pairs of a set whose files are there."""
    pairs = {"eso085": _eso085, "decam": _decam, "isis": _isis}[group](data)
    return [pair for pair in pairs if pair.science.is_file() and pair.template.is_file()]


def _eso085(data: Path) -> Iterator[Pair]:
    first, second = (data / "properimage_eso085" / f"aligned_eso085-030-00{i}.fit" for i in (4, 5))
    yield Pair("eso085", "5 - 4", second, first)
    yield Pair("eso085", "4 - 5", first, second)


def _decam(data: Path) -> Iterator[Pair]:
    """Each frame against the one before it, and the frames of one night against those of the other."""
    frames = {
        f"{n}{c}": data / "sfft_decam" / f"DEC-OBS{n}{c}.mini.fits" for n in ("04", "18") for c in "abcde"
    }
    names = [(f"{n}{b}", f"{n}{a}") for n in ("04", "18") for a, b in zip("abcd", "bcde", strict=True)]
    for science, template in names + [(f"18{c}", f"04{c}") for c in "abcde"]:
        yield Pair("decam", f"{science} - {template}", frames[science], frames[template])


def _isis(data: Path) -> Iterator[Pair]:
    frames = [data / "isis_images2" / f"infile{i}.fits" for i in range(N_EPOCHS)]
    for i in range(N_EPOCHS):
        yield Pair("isis", f"{i}", frames[i], frames[0 if i else 1])


def subtract(pair: Pair, args: argparse.Namespace) -> Outcome:
    """Run the command on a pair, and measure what it left."""
    from lsst.twinkles.diffim.cli.subtract_exposures import main as subtract_exposures

    errors, start = io.StringIO(), time.process_time()
    with contextlib.ExitStack() as stack:
        folder = args.output if args.keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        results = folder / f"{pair.group}-{pair.name.replace(' - ', '-')}"
        words = [str(pair.science), str(pair.template), "--output", str(results), "--clobber", "-L", "error"]
        words += ["-c", *args.config] if args.config else []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            status = subtract_exposures(words)
        cpu = time.process_time() - start
        figures = measure(results) if (results / "difference.fits").is_file() else {}
    return Outcome(pair.group, pair.name, status, _last_line(errors.getvalue()), cpu, figures)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].partition("error: ")[2] if lines else ""


def measure(results: Path) -> dict[str, Any]:
    """Return the figures of a difference."""
    from astropy.table import Table
    from lsst.images import DifferenceImage

    from lsst.twinkles.diffim.report.noise import find_blank_sky, measure_noise

    difference = DifferenceImage.read(str(results / "difference.fits"))
    sources = Table.read(results / "diaSources.parquet")
    tasks = json.loads((results / "summary.json").read_text())["tasks"]
    subtraction = tasks["imageDifference:subtract"]
    noise = measure_noise(difference)
    significance = filter_with_psf(difference)
    above = np.abs(np.asarray(sources["significance"], float)) > THRESHOLD
    flagged = np.logical_or.reduce([np.asarray(sources[name], bool) for name in FLAGS])
    convolved = subtraction["convolvedExposure"].lower()
    scatter = robust_scatter(significance[find_blank_sky(difference)])
    return {
        "noise": noise.ratio,
        "lag1": largest_correlation(noise.autocorrelation, 1),
        "lag2": largest_correlation(noise.autocorrelation, 2),
        "mf": scatter,
        "scaled": tasks["imageDifference"].get("scaleDiffimVarianceFactor"),
        "peaks": count_peaks(significance, scatter, difference),
        "found": int(np.count_nonzero(above)),
        "flagged": int(np.count_nonzero(above & flagged)),
        "by": f"{subtraction.get('subtractMethod', '')} {convolved}",
    }


def filter_with_psf(difference: Any) -> np.ndarray:
    """Return PSF fluxes of all pixels over their errors, by plain convolutions with one PSF."""
    from scipy.signal import fftconvolve

    from lsst.twinkles.diffim.adapters.psfs import sample_psf

    psf = sample_psf(difference.psf, difference.bbox, grid=1).stamps[0, 0][::-1, ::-1]
    image, variance = difference.image.array.astype(float), difference.variance.array.astype(float)
    good = np.isfinite(image) & np.isfinite(variance) & (variance > 0) & ~_unusable(difference)
    weight = np.where(good, 1.0 / np.where(good, variance, 1.0), 0.0)
    flux = fftconvolve(np.where(good, image, 0.0) * weight, psf, "same")
    return flux / np.sqrt(np.maximum(fftconvolve(weight, psf**2, "same"), 1e-30))


def _unusable(difference: Any) -> np.ndarray:
    from lsst.twinkles.diffim.adapters.masks import bad_pixels

    return bad_pixels(difference.mask, UNUSABLE)


def robust_scatter(values: np.ndarray) -> float:
    """Return a standard deviation from the median of absolute deviations."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def largest_correlation(autocorrelation: np.ndarray, lag: int) -> float:
    """Return the correlation of the largest absolute value on the square of a lag."""
    middle = autocorrelation.shape[0] // 2
    y, x = np.indices(autocorrelation.shape) - middle
    values = autocorrelation[np.maximum(abs(y), abs(x)) == lag]
    return float(values[np.abs(values).argmax()])


def count_peaks(significance: np.ndarray, scatter: float, difference: Any) -> int:
    """Return the number of maxima of both signs above the threshold on usable pixels."""
    from scipy.ndimage import maximum_filter

    height = np.abs(significance) / scatter
    peak = (height > THRESHOLD) & (height == maximum_filter(height, 5)) & ~_unusable(difference)
    return int(np.count_nonzero(peak))


_COLUMNS = (
    ("noise", "noise", "{:.3f}", 7),
    ("lag1", "lag 1", "{:+.4f}", 9),
    ("lag2", "lag 2", "{:+.4f}", 9),
    ("mf", "mf", "{:.3f}", 7),
    ("scaled", "scaled", "{:.3f}", 8),
    ("peaks", "peaks", "{:d}", 7),
    ("found", "found", "{:d}", 7),
    ("flagged", "flagged", "{:d}", 9),
    ("by", "by", "{:s}", 16),
)


def heading() -> str:
    """Return the line above a table."""
    return f"{'pair':10s}" + "".join(f"{title:>{width}s}" for _, title, _, width in _COLUMNS) + f"{'CPU':>6s}"


def row(outcome: Outcome) -> str:
    """Return the line of a pair."""
    if not outcome.figures:
        return f"{outcome.name:10s}  status {outcome.status}: {outcome.message}"
    cells = []
    for name, _, form, width in _COLUMNS:
        value = outcome.figures[name]
        cells.append(f"{'' if value is None else form.format(value):>{width}s}")
    line = f"{outcome.name:10s}" + "".join(cells) + f"{outcome.cpu:6.1f}"
    return line if outcome.status == 0 else f"{line}\n{'':10s}  status {outcome.status}: {outcome.message}"


def verdict(group: str, outcomes: list[Outcome]) -> str:
    """Return what the figures of a set say beside what they should be."""
    done = [outcome.figures for outcome in outcomes if outcome.figures]
    lines = [
        f"{len(done)} of {len(outcomes)} pairs have a difference, {len(outcomes) - len(done)} were refused."
    ]
    if group == "eso085" and done:
        most = max(max(figures["peaks"], figures["found"]) for figures in done)
        lines.append(
            f"Detections of a null test: {most} at most; {MOST_PEAKS} with ISIS, the best other code."
        )
    if group == "decam" and done:
        noise = [figures["noise"] for figures in done]
        lags = max(abs(figures[name]) for figures in done for name in ("lag1", "lag2"))
        fit = sum(abs(f["noise"] - 1) <= WHITE and max(abs(f["lag1"]), abs(f["lag2"])) <= WHITE for f in done)
        lines.append(
            f"Noise over claimed {min(noise):.3f} to {max(noise):.3f}, correlations up to {lags:.4f}: "
            f"{fit} of {len(done)} within {WHITE:.0%} of white noise."
        )
    if group == "isis" and done:
        texts = []
        for name, what in (("noise", "Noise over claimed"), ("mf", "PSF fluxes"), ("found", "found")):
            low, middle, high = np.percentile([figures[name] for figures in done], (0, 50, 100))
            texts.append(f"{what} {low:.3g} to {high:.3g} (median {middle:.3g})")
        lines.append(f"{', '.join(texts)}.")
    return "\n".join(lines)


def write(outcomes: list[Outcome], output: Path) -> None:
    """Write all tables, and the figures as JSON."""
    parts = [" ".join(sys.argv), ""]
    for group in dict.fromkeys(outcome.group for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.group == group]
        parts += [group, heading(), *map(row, mine), verdict(group, mine), ""]
    (output / "real.txt").write_text("\n".join(parts))
    (output / "real.json").write_text(json.dumps([dataclasses.asdict(o) for o in outcomes], indent=1))
    print(f"Written to {output}/real.txt and real.json.")


if __name__ == "__main__":
    sys.exit(main())
