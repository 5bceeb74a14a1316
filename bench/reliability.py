#!/usr/bin/env python
"""Train the reliability score on simulated pairs with artefacts, and draw its curve on others.

Every pair has planted transients and variables, and what makes false detections: cosmic rays, hot pixels,
trails, registration errors that no kernel follows, PSF models that are off, saturated stars. Half of the
training pairs are processed without the search for cosmic rays, so that the score knows what those look
like that the search misses. Detections within 2.5 pixels of a true change of the same sign are real, those
with none within 5 pixels are false, the others are left out.

    .venv/bin/python bench/reliability.py              train, write the model and doc/reliability.png
    .venv/bin/python bench/reliability.py --test-only  curve of the model that is there

The features of all detections are kept in --cache, so that a model can be fitted again within seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "python/lsst/twinkles/diffim/data/reliability.json"
PICTURE = ROOT / "doc/reliability.png"
SEEING = ((0.95, 0.65), (0.65, 0.95), (0.80, 0.78), (0.75, 0.70), (1.2, 0.8))
JITTERS = (0.03, 0.03, 0.15, 0.4)


@dataclass(frozen=True)
class Examples:
    """Detections of which it is known what they are."""

    features: np.ndarray
    real: np.ndarray
    flagged: np.ndarray
    pair: np.ndarray


def main() -> int:
    """Train, test, write; return the exit status."""
    args = parse_arguments()
    warnings.filterwarnings("ignore")  # of Piff and galsim, which do not concern the reader
    args.cache.mkdir(parents=True, exist_ok=True)
    if not args.test_only:
        training = collect(args, args.train, training=True)
        model = train(training, ridge=args.ridge, version=args.version)
        model["trained"] = {
            "seeds": [args.train[0], args.train[-1]],
            "size": args.size,
            "real": int(training.real.sum()),
            "false": int((~training.real).sum()),
        }
        MODEL.parent.mkdir(exist_ok=True)
        MODEL.write_text(json.dumps(model, indent=1) + "\n")
        print(f"Wrote {MODEL} from {len(training.real)} detections, {int(training.real.sum())} of them real.")
    report(args, collect(args, args.test, training=False))
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", default="1..30", help="seeds to train on (1..30)")
    parser.add_argument("--test", default="1001..1024", help="seeds of the curve (1001..1024)")
    parser.add_argument("--size", type=int, default=512, help="pixels on a side (512)")
    parser.add_argument("--ridge", type=float, default=3.0, help="penalty on squares of coefficients (3)")
    parser.add_argument(
        "--version", default="logit-1", help="name of the model, seven characters at most (logit-1)"
    )
    parser.add_argument("--cache", type=Path, default=Path(".cache/reliability"), help="directory")
    parser.add_argument("--test-only", action="store_true", help="no training")
    args = parser.parse_args()
    for name in ("train", "test"):
        first, _, last = getattr(args, name).partition("..")
        setattr(args, name, list(range(int(first), int(last or first) + 1)))
    return args


def collect(args: argparse.Namespace, seeds: list[int], *, training: bool) -> Examples:
    """Return the detections of some pairs, from the cache where they are there."""
    parts = []
    for number, seed in enumerate(seeds, start=1):
        file = args.cache / f"{'train' if training else 'test'}-{args.size}-{seed}.npz"
        if not file.exists():
            print(f"\r\033[Kpair {number} of {len(seeds)} ...", end="", file=sys.stderr, flush=True)
            np.savez(file, **make_examples(seed, args.size, training=training))
        with np.load(file) as content:
            parts.append({name: content[name] for name in content.files} | {"pair": None})
            parts[-1]["pair"] = np.full(len(content["real"]), seed)
    print("\r\033[K", end="", file=sys.stderr)
    return Examples(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def make_examples(seed: int, size: int, *, training: bool) -> dict[str, np.ndarray]:
    """Simulate a pair, spoil it, subtract, and tell real detections from false ones."""
    from lsst.twinkles.diffim.report.summary import compare_with_truth
    from lsst.twinkles.diffim.simulation.pairs import PairCase, simulate_pair
    from lsst.twinkles.diffim.tasks.score_reliability import ScoreReliabilityTask
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    rng = np.random.default_rng([seed, 77])
    case = PairCase(*SEEING[seed % len(SEEING)], jitter=float(rng.choice(JITTERS)))
    pair = simulate_pair(case, seed=seed, nx=size, ny=size, n_transients=max(10, size * size // 6000))
    search = not training or bool(seed % 2)
    science, template = (
        spoil(e, rng, brightest=5.0 if search else 2.0) for e in (pair.science, pair.template)
    )
    config = TwinklesImageDifferenceTask.ConfigClass()
    config.detection.thresholdValue = 4.5 if training else 5.0
    config.subtract.kernel.name = "AL" if seed % 3 == 0 else "zogy"
    config.doFindCosmicRays = search
    config.doAssessDifference = config.doReliability = False
    result = TwinklesImageDifferenceTask(config=config).run(science, template)
    sources = result.diaSources
    scorer = object.__new__(ScoreReliabilityTask)  # measures without a model
    scorer.config = ScoreReliabilityTask.ConfigClass()
    features = scorer.measure(result.subtractedExposure, science, result.matchedExposure, sources)
    comparison = compare_with_truth(sources, pair.truth)
    real = np.zeros(len(sources), bool)
    real[comparison.match[comparison.match >= 0]] = True
    known = (real | comparison.false) & ~(real & comparison.false)
    flags = [np.asarray(sources[name], bool) for name in ("pixelFlags", "centroid_flag")]
    return {"features": features[known], "real": real[known], "flagged": np.logical_or(*flags)[known]}


def spoil(exposure: Any, rng: np.random.Generator, *, brightest: float) -> Any:
    """Return an exposure with cosmic rays, hot pixels, sometimes a trail, and sometimes a wrong PSF.

    The brightest hot pixel has that power of ten in standard deviations: where nothing searches for them,
    brighter ones would leave nothing of the rest.
    """
    spoilt = exposure.copy()
    image, noise = spoilt.image.array, np.sqrt(spoilt.variance.array)
    add_rays(image, noise, rng, brightest=brightest)
    if rng.uniform() < 0.4:
        add_trail(image, noise, rng)
    if rng.uniform() < 0.4:
        spoilt = with_wider_psf(spoilt, fraction=rng.uniform(0.02, 0.08))
    return spoilt


def add_rays(image: np.ndarray, noise: np.ndarray, rng: np.random.Generator, *, brightest: float) -> None:
    """Add cosmic rays, one in 100 x 100 pixels, and half as many hot pixels, in place."""
    ny, nx = image.shape
    count = max(3, image.size // 100**2)
    for k in range(count + count // 2):
        hot = k >= count
        length, angle = (0.5 if hot else 0.5 + rng.exponential(3.0)), rng.uniform(0, np.pi)
        steps = np.arange(0.0, length, 0.5)
        x = np.round(rng.uniform(0, nx) + steps * np.cos(angle)).astype(int)
        y = np.round(rng.uniform(0, ny) + steps * np.sin(angle)).astype(int)
        inside = (x >= 0) & (y >= 0) & (x < nx) & (y < ny)
        rows, columns = np.unique(np.stack([y[inside], x[inside]]), axis=1)
        height = 10 ** rng.uniform(0.5, brightest if hot else 2.0)
        image[rows, columns] += height * noise[rows, columns]
        if not hot and rng.uniform() < 0.4:
            # Charge that diffuses: a ray that is wider than a pixel, and yet narrower than the PSF.
            for dy, dx in ((0, 1), (1, 0)):
                j, i = np.clip(rows + dy, 0, ny - 1), np.clip(columns + dx, 0, nx - 1)
                image[j, i] += rng.uniform(0.2, 0.9) * height * noise[j, i]


def add_trail(image: np.ndarray, noise: np.ndarray, rng: np.random.Generator) -> None:
    """Add the trail of a satellite, in place."""
    ny, nx = image.shape
    angle, x0, y0 = rng.uniform(0, np.pi), rng.uniform(0, nx), rng.uniform(0, ny)
    y, x = np.mgrid[:ny, :nx]
    across = (x - x0) * np.sin(angle) - (y - y0) * np.cos(angle)
    profile = np.exp(-0.5 * (across / rng.uniform(1.5, 3.0)) ** 2)
    image += (10 ** rng.uniform(-0.3, 1.3) * np.median(noise) * profile).astype(image.dtype)


def with_wider_psf(exposure: Any, *, fraction: float) -> Any:
    """Return an exposure whose PSF model is wider than its PSF."""
    from lsst.images import VisitImage
    from scipy.ndimage import gaussian_filter

    from lsst.twinkles.diffim.adapters.psfs import psf_from_grid, psf_sigma, sample_psf
    from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid

    grid = sample_psf(exposure.psf, exposure.bbox)
    width = psf_sigma(grid) * np.sqrt((1 + fraction) ** 2 - 1)
    stamps = gaussian_filter(grid.stamps, (0, 0, width, width))
    stamps /= stamps.sum(axis=(2, 3), keepdims=True)
    return VisitImage(
        exposure.image,
        mask=exposure.mask,
        variance=exposure.variance,
        sky_projection=exposure.sky_projection,
        obs_info=exposure.obs_info,
        summary_stats=exposure.summary_stats,
        photometric_scaling=exposure.photometric_scaling,
        psf=psf_from_grid(PsfGrid(stamps=stamps, x=grid.x, y=grid.y), exposure.bbox),
        detector=exposure.detector,
        band=exposure.band,
        metadata=dict(exposure.metadata),
    )


def train(examples: Examples, *, ridge: float, version: str) -> dict[str, Any]:
    """Fit a logistic regression; real and false detections count the same in all."""
    from lsst.twinkles.diffim.algorithms.measure.reliability import FEATURES, ReliabilityModel, expand_terms

    names, f = tuple(name for name, _ in FEATURES), examples.features
    n = f.shape[1]
    mean, scale = np.median(f, axis=0), np.maximum(f.std(axis=0), 1e-3)
    blank = ReliabilityModel(version, names, mean, scale, 0.0, np.zeros(n * (n + 3) // 2))
    terms = expand_terms(blank.standardize(f))
    y = examples.real.astype(float)
    weight = np.where(examples.real, 0.5 / y.mean(), 0.5 / (1 - y.mean()))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = parameters[0] + terms @ parameters[1:]
        residual = weight * (1.0 / (1.0 + np.exp(-np.clip(logit, -50, 50))) - y)
        value = (
            np.sum(weight * (np.logaddexp(0.0, logit) - y * logit)) + ridge * np.sum(parameters[1:] ** 2) / 2
        )
        gradient = np.concatenate([[residual.sum()], terms.T @ residual + ridge * parameters[1:]])
        return float(value), gradient

    best = minimize(
        loss, np.zeros(terms.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 2000}
    ).x

    def rounded(values: np.ndarray) -> list[float]:
        return [float(f"{v:.6g}") for v in values]

    return {
        "version": version,
        "features": list(names),
        "mean": rounded(mean),
        "scale": rounded(scale),
        "intercept": float(best[0]),
        "weights": rounded(best[1:]),
    }


def report(args: argparse.Namespace, examples: Examples) -> None:
    """Print and draw what part of real detections is kept for how many false ones."""
    from lsst.twinkles.diffim.tasks.score_reliability import read_model

    model = read_model(MODEL)
    score = model.score(examples.features)
    megapixels = len(np.unique(examples.pair)) * args.size**2 / 1e6
    n_real, n_false = int(examples.real.sum()), int((~examples.real).sum())
    print(f"{model.version} on {n_real} real and {n_false} false detections of {megapixels:.1f} megapixels:")
    print(f"{'':24s}{'real kept':>12s}{'false kept':>12s}{'false/Mpix':>12s}{'real flagged':>14s}")
    rows = [("all", np.ones(len(score), bool)), ("without flags", ~examples.flagged)]
    rows += [(f"reliability > {limit:g}", score > limit) for limit in (0.1, 0.3, 0.5, 0.7, 0.9)]
    rows += [("> 0.5, without flags", (score > 0.5) & ~examples.flagged)]
    for name, kept in rows:
        real, false = (kept & examples.real).sum(), (kept & ~examples.real).sum()
        print(f"{name:24s}{real / n_real:12.3f}{false / max(n_false, 1):12.3f}{false / megapixels:12.1f}")
    draw(score, examples, megapixels, model.version)
    print(f"Wrote {PICTURE}.")


def draw(score: np.ndarray, examples: Examples, megapixels: float, version: str) -> None:
    """Draw completeness against false detections, and the scores themselves."""
    from matplotlib.figure import Figure

    from lsst.twinkles.diffim.report.figures import save_figure

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    limits = np.concatenate([[-1.0], np.unique(score)])
    real = np.array([(score > limit)[examples.real].mean() for limit in limits])
    false = np.array([(score > limit)[~examples.real].sum() / megapixels for limit in limits])
    left.plot(np.maximum(false, 0.05), real, color="#0072B2", lw=2, label=version)
    for limit in (0.1, 0.5, 0.9):
        kept = score > limit
        place = max(kept[~examples.real].sum() / megapixels, 0.05), kept[examples.real].mean()
        left.plot(*place, "o", color="#0072B2")
        left.annotate(f"{limit:g}", place, xytext=(6, -12), textcoords="offset points", fontsize=9)
    kept = ~examples.flagged
    left.plot(kept[~examples.real].sum() / megapixels, kept[examples.real].mean(), "s", color="#D55E00",
              label="pixel flags alone")  # fmt: skip
    left.set(xscale="log", xlabel="false detections per megapixel", ylabel="real detections kept")
    left.set_title("Detections above 5 sigma of pairs with artefacts, seeds not trained on", fontsize=10)
    left.grid(alpha=0.3)
    left.legend(loc="lower right", frameon=False)
    bins = np.linspace(0, 1, 26)
    for chosen, color, label in ((examples.real, "#009E73", "real"), (~examples.real, "#D55E00", "false")):
        right.hist(score[chosen], bins, histtype="step", color=color, lw=2, label=f"{chosen.sum()} {label}")
    right.set(yscale="log", xlabel="reliability", ylabel="detections")
    right.legend(frameon=False)
    save_figure(figure, PICTURE)


if __name__ == "__main__":
    sys.exit(main())
