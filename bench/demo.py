#!/usr/bin/env python
"""The Twinkles cookbook in two minutes: simulate two visits, subtract, compare with the truth.

Leaves in ./demo a repository (repo), the results (out) and two pictures. Called by ``make demo``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SCIENCE, TEMPLATE = 230, 250
ROOT = Path(__file__).resolve().parent.parent
EXPECTED_SNR = 5.0


def main() -> int:
    """Run the demonstration; return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--directory", type=Path, default=Path("demo"), help="where to work (demo)")
    parser.add_argument("--size", type=int, default=1024, help="pixels on a side (1024)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the field (1)")
    args = parser.parse_args()
    repo, out = args.directory / "repo", args.directory / "out"
    start = time.monotonic()
    for old in (repo, out):
        shutil.rmtree(old, ignore_errors=True)
    args.directory.mkdir(parents=True, exist_ok=True)

    print(f"\n1. A repository with visits {SCIENCE} and {TEMPLATE} of a simulated Twinkles field", flush=True)
    # Ten times the variable things of Run 1, so that a corner of the CCD shows some of each kind.
    status = run_command(
        f"simulateTwinkles.py {shlex.quote(str(repo))} --size {args.size} {args.size} --seed {args.seed} "
        "--overload 10 --variable-stars 0.1 -j 2"
    )
    if status == 0:
        print("\n2. The command of the cookbook", flush=True)
        status = run_command(
            f"imageDifference.py {shlex.quote(str(repo))} --id visit={SCIENCE} --templateId visit={TEMPLATE} "
            f"--output {shlex.quote(str(out))} --configfile {configuration_file()}"
        )
    if status != 0:
        print(f"The command failed with status {status}; what it said is above.", file=sys.stderr)
        return 1
    print("\n3. What it found, against the truth", flush=True)
    report(repo, out, args.directory)
    print(f"\n{time.monotonic() - start:.0f} s in all.")
    return 0


def run_command(line: str) -> int:
    """Show a command, run it with the scripts of this Python first in the path, return its status."""
    print(f"   $ {line}", flush=True)
    scripts = Path(sys.executable).parent
    environment = dict(os.environ, PATH=f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}")
    words = shlex.split(line)
    program = shutil.which(words[0], path=environment["PATH"])
    if program is None:
        print(f"{words[0]} is not installed beside {sys.executable}; run make install.", file=sys.stderr)
        return 127
    start = time.monotonic()
    status = subprocess.run([program, *words[1:]], env=environment, check=False).returncode
    print(f"   {time.monotonic() - start:.1f} s", flush=True)
    return status


def configuration_file() -> str:
    """Return the cookbook's override file, as it would be typed from the current directory."""
    file = ROOT / "config" / "diffimconfig.py"
    return shlex.quote(str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file))


def report(repo: Path, out: Path, directory: Path) -> None:
    """Print the comparison with the truth and draw the pictures."""
    from lsst.twinkles.diffim.report.cutouts import plot_cutouts
    from lsst.twinkles.diffim.report.figures import plot_difference
    from lsst.twinkles.diffim.report.noise import measure_noise
    from lsst.twinkles.diffim.report.summary import (
        compare_with_truth,
        count_kinds,
        format_comparison,
        format_kinds,
    )

    science, template = (read_dataset(repo, "calexp", visit) for visit in (SCIENCE, TEMPLATE))
    matched, difference, sources = (
        read_dataset(out, f"deepDiff_{name}", SCIENCE) for name in ("matchedExp", "differenceExp", "diaSrc")
    )
    truth, n_hidden = visible_truth(repo, science, template, difference)
    sources, n_flagged = drop_flagged(in_nanojansky(sources, difference))
    comparison = compare_with_truth(sources, truth, threshold=EXPECTED_SNR)
    kinds = format_kinds(count_kinds(comparison, sources, truth), comparison.n_false)
    noise = measure_noise(difference)
    print(f"\n{indent(kinds)}\n\n{indent(format_comparison(comparison))}")
    print(indent(f"noise, measured / claimed      {noise.ratio:.3f} (1: the variance plane is true)"))
    print(indent(f"correlation of neighbours      {noise.ac1:+.4f} (0: white noise)"))
    print(indent(f"\nNot counted: {n_hidden} true changes on masked pixels, {n_flagged} flagged detections."))
    bright = truth[truth["snr"] >= EXPECTED_SNR]
    plot_difference(science, matched, difference, sources, directory / "difference.png", truth=bright)
    plot_cutouts(science, matched, difference, sources, directory / "cutouts.png")
    print(
        f"""
   {directory}/difference.png    science, matched template, difference and detections
   {directory}/cutouts.png       the twelve brightest detections
   {directory}/out               the results, a repository: butler query-datasets {out}
   {directory}/repo/truth        what is true, as parquet tables"""
    )


def read_dataset(root: Path, name: str, visit: int) -> Any:
    """Return a dataset of one visit."""
    from lsst.daf.butler import Butler

    butler = Butler.from_config(str(root), writeable=False)
    (ref,) = butler.query_datasets(
        name, collections="*", find_first=False, instrument="TwinklesCam", visit=visit
    )
    return butler.get(ref)


def visible_truth(repo: Path, science: Any, template: Any, difference: Any) -> tuple[Any, int]:
    """Return what changed on pixels that are not masked, and how many expected changes lie elsewhere."""
    import numpy as np
    from astropy.table import Table

    from lsst.twinkles.diffim.adapters.masks import bad_pixels
    from lsst.twinkles.diffim.simulation.truth import exposure_truth

    tables = [Table.read(repo / "truth" / f"visit-{visit}.parquet") for visit in (SCIENCE, TEMPLATE)]
    truth = exposure_truth(science, template, *tables)
    bad = bad_pixels(difference.mask, ("SATURATED", "SAT_TEMPLATE", "BAD", "NO_DATA", "DETECTION_EDGE"))
    column = np.round(np.asarray(truth["x"])).astype(int) - difference.bbox.x.start
    row = np.round(np.asarray(truth["y"])).astype(int) - difference.bbox.y.start
    hidden = bad[row, column]
    return truth[~hidden], int(np.count_nonzero(hidden & (truth["snr"] >= EXPECTED_SNR)))


def in_nanojansky(sources: Any, difference: Any) -> Any:
    """Return the catalogue with PSF fluxes in nJy, the unit of the truth."""
    import astropy.units as u
    import numpy as np

    unit = sources["psfFlux"].unit
    sources = sources.copy()
    if unit is not None and unit.is_equivalent(u.nJy):
        factor = unit.to(u.nJy)
    else:
        x, y = (np.asarray(sources[name], dtype=float) for name in ("x", "y"))
        factor = np.asarray(difference.photometric_scaling(x=x, y=y))
    for name in ("psfFlux", "psfFluxErr"):
        sources[name] = np.asarray(sources[name], dtype=float) * factor * u.nJy
    return sources


def drop_flagged(sources: Any) -> tuple[Any, int]:
    """Return the detections without flags that spoil them, and how many have some."""
    import numpy as np

    flagged = np.zeros(len(sources), dtype=bool)
    for name in ("centroid_flag", "psfFlux_flag", "pixelFlags", "pixelFlags_edge"):
        flagged |= np.asarray(sources[name], dtype=bool)
    return sources[~flagged], int(np.count_nonzero(flagged))


def indent(text: str) -> str:
    """Set lines in by three spaces."""
    return "\n".join(f"   {line}" if line else "" for line in text.split("\n"))


if __name__ == "__main__":
    sys.exit(main())
