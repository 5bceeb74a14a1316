#!/usr/bin/env python
"""Do errors mean it: errors of DIA sources over what they claim, on simulated pairs beside the truth.

Prints mean and width of the pulls by signal-to-noise ratio, on blank sky and on galaxies, at given
positions (forced) and at those that are found (free, started near the truth so that no threshold selects),
and of dipoles, and draws them into ./pulls/pulls.png. Forced fluxes of blank sky are the row of
signal-to-noise 0, "star" is within 12 pixels of bright ones. Dipoles are those of further stars whose
places in the two images differ by 0.02 to 1 FWHM in directions of their own, on dark sky and on galaxies
that do not move (dipole_pulls.py).
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from dipole_pulls import DIPOLE_KINDS, measure_dipoles
from planted import as_detections, nanojansky
from quality import FLAGS

EDGES = (5.0, 8.0, 14.0, 28.0, 52.0, 100.0)
# Of transients on blank sky: beyond both ends, so that no bin is cut by it.
SIGNAL_TO_NOISE = (3.5, 140.0)
# Electrons in a pixel within 12 pixels from which on a place is that of a bright star, and no blank sky.
STAR = 2000.0
KINDS = ("forced flux", "free flux", "aperture flux", "x", "y")


def main() -> int:
    """Measure, print and draw; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["std", "rev"], help="pairs to simulate (std rev)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="seeds of the fields")
    parser.add_argument("--size", type=int, default=1024, help="pixels on a side (1024)")
    parser.add_argument("--kernel", default="zogy", choices=["zogy", "AL"], help="method (zogy)")
    parser.add_argument("--directory", type=Path, default=Path("pulls"), help="where to write (pulls)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    # So many transients that are not detected make every difference doubtful.
    logging.getLogger("lsst").setLevel(logging.ERROR)
    args.directory.mkdir(parents=True, exist_ok=True)
    parts = [measure_pair(case, seed, args.size, args.kernel) for case in args.cases for seed in args.seeds]
    pulls = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    print("Transients")
    report(pulls, KINDS)
    parts = [
        measure_dipoles(case, seed, args.size, args.kernel) for case in args.cases for seed in args.seeds
    ]
    dipoles = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    print("Dipoles: moment (flux times separation), separation across the true direction and along, by S/N")
    report(dipoles, DIPOLE_KINDS)
    print("Flux of these stars, by S/N of that")
    report(dipoles | {"snr": dipoles["flux snr"]}, ("flux",))
    draw(pulls, dipoles, args.directory / "pulls.png")
    print(f"Picture: {args.directory / 'pulls.png'}")
    return 0


def measure_pair(case: str, seed: int, size: int, kernel: str) -> dict[str, np.ndarray]:
    """Subtract a simulated pair and measure it where its transients are, and where nothing is."""
    from astropy.table import Table

    from lsst.twinkles.diffim.simulation.pairs import simulate_pair
    from lsst.twinkles.diffim.tasks.forced_measurement import ForcedMeasurementTask
    from lsst.twinkles.diffim.tasks.measurement import MeasurementConfig, MeasurementTask
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    # Half of the places of a raster that keeps sources apart, and more on galaxies.
    pair = simulate_pair(
        case,
        seed=seed,
        nx=size,
        ny=size,
        n_transients=int(size**2 / 50**2),
        signal_to_noise=SIGNAL_TO_NOISE,
    )
    config = TwinklesImageDifferenceTask.ConfigClass()
    config.doDetection = config.doMeasurement = False
    config.subtract.kernel = kernel
    result = TwinklesImageDifferenceTask(config=config).run(
        pair.science, pair.template, selectSources=pair.stars
    )
    images = (result.subtractedExposure, pair.science, result.matchedExposure)
    truth = pair.truth[(np.asarray(pair.truth["kind"]) == "transient") & apart(pair.truth)]
    x, y = np.asarray(truth["x"]), np.asarray(truth["y"])
    table = (
        MeasurementTask(config=MeasurementConfig(doDipoleFitting=False))
        .run(*images, as_detections(x, y, np.asarray(truth["difference_flux"])))
        .diaSources
    )
    blank_x, blank_y = blank_places(pair, size)
    places = Table({"x": np.concatenate([x, blank_x]), "y": np.concatenate([y, blank_y])})
    forced = ForcedMeasurementTask().run(*images, places).forcedSources
    # A PSF model of unit sum does not know of the light beyond its stamp: fluxes are of what is within.
    factor = nanojansky(images[1]) * pair.science_visit.psf.enclosed()
    n = len(truth)
    zero = np.zeros(len(blank_x))
    change = np.concatenate([np.asarray(truth["difference_flux"]) * factor, zero])
    bad = np.any([np.asarray(table[name]) for name in FLAGS], axis=0)
    flux = np.asarray(truth["difference_flux"]) * factor
    nothing = np.full(len(blank_x), np.nan)
    gone = np.where(bad, np.nan, 1.0)
    return {
        "snr": np.concatenate([np.abs(flux) / np.asarray(table["psfFluxErr"]), zero]),
        "on_source": np.concatenate([np.asarray(truth["on_source"]), zero > 1]),
        "forced flux": (np.asarray(forced["psfFlux"]) - change)
        / np.asarray(forced["psfFluxErr"])
        * np.concatenate([np.where(np.asarray(table["pixelFlags"]), np.nan, 1.0), zero + 1]),
        "free flux": np.concatenate(
            [(np.asarray(table["psfFlux"]) - flux) / table["psfFluxErr"] * gone, nothing]
        ),
        "x": np.concatenate([(np.asarray(table["x"], float) - x) / table["xErr"] * gone, nothing]),
        "y": np.concatenate([(np.asarray(table["y"], float) - y) / table["yErr"] * gone, nothing]),
        "aperture flux": np.concatenate(
            [(np.asarray(table["apFlux"]) - flux) / table["apFluxErr"] * gone, nothing]
        ),
        "near_star": np.concatenate([near_stars(pair, x, y), zero > 1]),
        "number": np.full(n + len(blank_x), n),
    }


def near_stars(pair: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tell which places are near bright light that both images have, which is not that of transients."""
    from scipy.ndimage import maximum_filter

    models = [visit.model - np.median(visit.model) for visit in (pair.science_visit, pair.template_visit)]
    light = maximum_filter(np.minimum(models[0], models[1] / pair.scale), size=25)
    return light[np.round(y).astype(int), np.round(x).astype(int)] > STAR


def apart(truth: Any) -> np.ndarray:
    """Tell which changes have no other within 20 pixels that could be seen."""
    x, y = np.asarray(truth["x"]), np.asarray(truth["y"])
    near = np.hypot(x[:, None] - x, y[:, None] - y) < 20
    np.fill_diagonal(near, False)
    return ~(near & (np.asarray(truth["snr"]) > 0.3)).any(axis=1)


def blank_places(pair: Any, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random places without light of the models of both images, and away from the rim."""
    rng = np.random.default_rng(pair.seed)
    x, y = rng.uniform(30, size - 30, (2, 600))
    light = np.zeros((size, size))
    for visit in (pair.science_visit, pair.template_visit):
        light += np.abs(visit.model - np.median(visit.model))
    column, row = np.round(x).astype(int), np.round(y).astype(int)
    dark = np.array(
        [light[j - 8 : j + 9, i - 8 : i + 9].max() < 40 for i, j in zip(column, row, strict=True)]
    )
    return x[dark], y[dark]


def report(pulls: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    """Print mean and width of each kind of pull."""
    print(f"{'S/N':>10} {'where':>7} {'number':>7}  " + "  ".join(f"{name:>16}" for name in names))
    for low, high in ((-1.0, 0.0), *itertools.pairwise(EDGES), (EDGES[0], EDGES[-1])):
        for where, there in places_of(pulls):
            which = (pulls["snr"] > low) & (pulls["snr"] <= high) & there
            if not which.any():
                continue
            cells = [format_cell(pulls[name][which]) for name in names]
            label = "0" if low < 0 else f"{low:.0f} - {high:.0f}"
            print(f"{label:>10} {where:>7} {which.sum():>7}  " + "  ".join(f"{c:>16}" for c in cells))


def places_of(pulls: dict[str, np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """Return what kinds of places there are, and which are of each."""
    on = np.asarray(pulls["on_source"], bool)
    near = ~on & np.asarray(pulls.get("near_star", np.zeros(len(on))), bool)
    return [("sky", ~on & ~near), ("galaxy", on), ("star", near)]


def format_cell(values: np.ndarray) -> str:
    """Return mean, its error, and width of pulls."""
    good = values[np.isfinite(values)]
    if len(good) < 5:
        return "-"
    return f"{good.mean():+.2f}({good.std() / len(good) ** 0.5:.2f}) {good.std():.2f}"


def draw(pulls: dict[str, np.ndarray], dipoles: dict[str, np.ndarray], path: Path) -> None:
    """Draw pulls against the signal-to-noise ratio, with mean and width of each bin."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 6), sharex=True, sharey=True, constrained_layout=True)
    panels = [(pulls, name, name) for name in ("forced flux", "free flux")]
    panels += [
        (dipoles, "moment", "dipole, moment"),
        (pulls, "x", "x"),
        (pulls, "y", "y"),
    ]
    panels += [(dipoles, "across", "dipole, separation across its direction")]
    for axis, (values, name, title) in zip(axes.flat, panels, strict=True):
        draw_panel(axis, values, name)
        axis.set(title=title, xscale="log", ylim=(-5, 5), xlim=(4.5, 111))
        axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"], minor=False)
        axis.set_xticks([], minor=True)
    axes[0, 0].legend(loc="upper left", fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("signal-to-noise ratio")
    for axis in axes[:, 0]:
        axis.set_ylabel("(measured - true) / error")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_panel(axis: Any, pulls: dict[str, np.ndarray], name: str) -> None:
    """Draw the pulls of one quantity on blank sky, and on galaxies where there are some."""
    styles = (("tab:blue", "blank sky", 0.96), ("tab:orange", "on galaxies", 1.04))
    for (_, there), (colour, where, shift) in zip(places_of(pulls), styles, strict=False):
        which = there & (pulls["snr"] > 0)
        if not which.any():
            continue
        snr, values = pulls["snr"][which], pulls[name][which]
        axis.plot(snr, values, ".", ms=1.5, color=colour, alpha=0.2, rasterized=True)
        for low, high in itertools.pairwise(EDGES):
            inside = values[(snr > low) & (snr <= high) & np.isfinite(values)]
            if len(inside) > 5:
                place = np.sqrt(low * high) * shift
                axis.errorbar(place, inside.mean(), inside.std(), fmt="o", color=colour, capsize=3)
        axis.plot([], [], "o", color=colour, label=where)
    for level in (-1, 0, 1):
        axis.axhline(level, color="0.6", lw=0.8, ls="-" if level == 0 else ":")


if __name__ == "__main__":
    sys.exit(main())
