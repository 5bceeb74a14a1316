#!/usr/bin/env python
"""Pictures and figures of differences of real exposures: doc/gallery.md. Called by ``make gallery``.

The exposures are public, but not part of the project: they are looked for in ../shared/data/real, and without
them nothing is done. Each pair goes through subtractExposures.py with its default configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "real"
LARGEST_BYTES = 400_000
STAR_HALF = 4  # half side in pixels of the squares in which the light of a star is looked at
STAR_SNR = 100.0


@dataclass(frozen=True)
class Pair:
    """Two exposures and what is to be said of them."""

    name: str
    title: str
    science: str
    template: str
    text: str


PAIRS = (
    Pair(
        "eso085",
        "ESO 085-030: two frames, 74 seconds apart",
        "properimage_eso085/aligned_eso085-030-005.fit",
        "properimage_eso085/aligned_eso085-030-004.fit",
        """\
A null test: nothing but satellites and cosmic rays changes within 74 seconds. The frames are bare 16-bit
images, registered, but without WCS, mask, variance or zero point, with dark columns, saturated stars and
a background that is not flat. All that is missing is made from the pixels: the mask finds the rim that
the registration filled and interpolated, the saturated stars by the level at which they pile up, and hot
pixels and cosmic rays because they are sharper than the PSF; the gain follows from sky over scatter; the
PSF from the stars. What is detected nevertheless: specks a little too wide for that, cores of bright stars,
stars beside the rim.""",
    ),
    Pair(
        "decam-null",
        "DECam: two exposures of one night",
        "sfft_decam/DEC-OBS18b.mini.fits",
        "sfft_decam/DEC-OBS18a.mini.fits",
        """\
Another null test: 256 x 256 pixels (67 arcsec) in i, sky subtracted and resampled onto one grid.""",
    ),
    Pair(
        "decam",
        "DECam: stacks of two nights",
        "sfft_decam/Stack-DEC-OBS18.fits",
        "sfft_decam/Stack-DEC-OBS04.fits",
        """\
The same field, five exposures stacked for each night, the nights about two years apart. One source beside
a galaxy's core was there in the template only, and the stars have moved: each leaves a dipole of its own
direction, as it does in the difference that SFFT makes of the same stacks. The pixels of these stacks are
correlated, as those of all images that were resampled or smoothed, which is measured on blank sky and
undone. The noise of such stacks has tails: its core is as wide as the variance plane says, within a
percent, its standard deviation larger, and so the scatter of fluxes, which are sums of many pixels.""",
    ),
)


@dataclass(frozen=True)
class Figures:
    """What is measured on a difference."""

    n_sources: int
    n_flagged: int
    noise_ratio: float
    ac1: float
    flux_scatter: float
    n_stars: int
    star_residual: float
    star_chi: float


def main() -> int:
    """Make the gallery; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "doc", help="directory of gallery.md (doc)")
    args = parser.parse_args()
    if not DATA.is_dir():
        print(
            f"The gallery needs real exposures in {os.path.relpath(DATA, ROOT)}, which is not there; skipped."
        )
        return 0
    pictures = args.output / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    sections = []
    for pair in PAIRS:
        with tempfile.TemporaryDirectory() as folder:
            results = Path(folder) / "results"
            if status := subtract(pair, results):
                print(f"{pair.name} failed with status {status}.", file=sys.stderr)
                return 1
            figures, summary = draw(pair, results, pictures)
        sections.append(describe(pair, figures, summary))
        print(f"\n{sections[-1]}", flush=True)
    (args.output / "gallery.md").write_text(HEAD + "\n".join(sections))
    return 0


def subtract(pair: Pair, results: Path) -> int:
    """Run the command on a pair."""
    from lsst.twinkles.diffim.cli.subtract_exposures import main as subtract_exposures

    with contextlib.redirect_stdout(sys.stderr):
        return subtract_exposures(
            [str(DATA / pair.science), str(DATA / pair.template), "--output", str(results)]
        )


def draw(pair: Pair, results: Path, pictures: Path) -> tuple[Figures, dict[str, Any]]:
    """Draw the pictures of a pair and measure its figures."""
    from astropy.table import Table
    from lsst.images import DifferenceImage, VisitImage

    from lsst.twinkles.diffim.adapters.read_exposure import read_exposure
    from lsst.twinkles.diffim.report.cutouts import plot_cutouts
    from lsst.twinkles.diffim.report.figures import plot_autocorrelation
    from lsst.twinkles.diffim.report.noise import measure_noise

    science = read_exposure(DATA / pair.science)
    difference = DifferenceImage.read(str(results / "difference.fits"))
    matched = VisitImage.read(str(results / "matchedTemplate.fits"))
    sources = Table.read(results / "diaSources.parquet")
    noise = measure_noise(difference, largest_lag=6)
    shrink(results / "difference.png", pictures / f"{pair.name}-difference.png")
    raw = results / "raw.png"
    plot_cutouts(science, matched, difference, sources, raw, count=9)
    shrink(raw, pictures / f"{pair.name}-cutouts.png")
    plot_autocorrelation(noise.autocorrelation, raw, claimed=noise.ratio)
    shrink(raw, pictures / f"{pair.name}-noise.png")
    n_stars, residual, chi = measure_stars(science, difference)
    figures = Figures(
        n_sources=len(sources),
        n_flagged=int(np.count_nonzero(sources["pixelFlags"])),
        noise_ratio=noise.ratio,
        ac1=noise.ac1,
        flux_scatter=measure_flux_scatter(difference),
        n_stars=n_stars,
        star_residual=residual,
        star_chi=chi,
    )
    return figures, json.loads((results / "summary.json").read_text())


def measure_flux_scatter(difference: Any) -> float:
    """Return the scatter of PSF fluxes of blank sky over their claimed errors (1 if the noise is white)."""
    from scipy.signal import fftconvolve

    from lsst.twinkles.diffim.adapters.psfs import sample_psf
    from lsst.twinkles.diffim.report.noise import find_blank_sky

    psf = sample_psf(difference.psf, difference.bbox, grid=1).stamps[0, 0][::-1, ::-1]
    blank = find_blank_sky(difference)
    image = np.where(np.isfinite(difference.image.array), difference.image.array, 0.0).astype(float)
    variance = np.where(np.isfinite(difference.variance.array), difference.variance.array, 0.0).astype(float)
    flux, error2 = fftconvolve(image, psf, "same"), fftconvolve(variance, psf**2, "same")
    values = (flux / np.sqrt(np.maximum(error2, 1e-30)))[blank]
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def measure_stars(science: Any, difference: Any) -> tuple[int, float, float]:
    """Return the number of bright stars, the part of their light that is left, and its scatter in sigma."""
    from lsst.twinkles.diffim.algorithms.read.sky import estimate_sky
    from lsst.twinkles.diffim.algorithms.read.stars import find_psf_stars

    bad = ~np.isfinite(difference.image.array)
    for plane in ("NO_DATA", "BAD", "SATURATED", "SAT_TEMPLATE"):
        if plane in difference.mask.schema.names:
            bad |= difference.mask.get(plane)
    pixels = np.where(
        np.isfinite(science.image.array), science.image.array, np.nanmedian(science.image.array)
    )
    sky = estimate_sky(pixels, bad, mesh=64)
    stars = find_psf_stars(pixels - sky.level, sky.sigma, bad, min_snr=STAR_SNR, half=15, n_max=500)
    left, chi = [], []
    for x, y in zip(stars.x.round().astype(int), stars.y.round().astype(int), strict=True):
        square = np.s_[y - STAR_HALF : y + STAR_HALF + 1, x - STAR_HALF : x + STAR_HALF + 1]
        light = (pixels - sky.level)[square].sum()
        rest = difference.image.array[square]
        left.append(abs(rest.sum()) / light)
        chi.append(np.sqrt(np.mean(rest**2 / difference.variance.array[square])))
    return len(stars), float(np.median(left)), float(np.median(chi))


def shrink(source: Path, target: Path) -> None:
    """Write a PNG of 256 colors, no larger than a repository should hold."""
    from PIL import Image

    picture = Image.open(source).convert("RGB")
    for percent in (100, 90, 80, 70, 60, 50):
        size = (picture.width * percent // 100, picture.height * percent // 100)
        small = picture if percent == 100 else picture.resize(size, Image.Resampling.LANCZOS)
        # Rare colors, those of the marks, keep their place in the palette.
        few = small.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(target, optimize=True)
        if target.stat().st_size <= LARGEST_BYTES:
            return
    raise RuntimeError(f"{target} has {target.stat().st_size} bytes.")


def describe(pair: Pair, figures: Figures, summary: dict[str, Any]) -> str:
    """Return the section of a pair, in Markdown."""
    subtraction = summary["tasks"]["imageDifference:subtract"]
    made = "\n".join(
        f"- {role}: {sentence}"
        for role in ("science", "template")
        for key, sentence in summary["inputs"][role]["made"].items()
        if key != "assumedUnit"
    )
    rows = (
        (
            "FWHM of science and template",
            "{sciencePsfSize:.2f} and {templatePsfSize:.2f} pixels".format(**subtraction),
        ),
        ("convolved", subtraction["convolvedExposure"].lower()),
        (
            "stars the kernel is made from",
            f"{subtraction['nKernelSourcesUsed']} of {subtraction['nPsfSources']}",
        ),
        ("order of its variation", subtraction["spatialKernelOrder"]),
        ("noise, measured over claimed", f"{figures.noise_ratio:.3f}"),
        ("correlation of neighbouring pixels", f"{figures.ac1:+.3f}"),
        ("scatter of PSF fluxes of blank sky over their errors", f"{figures.flux_scatter:.2f}"),
        (f"stars of S/N > {STAR_SNR:.0f}", figures.n_stars),
        ("part of their light that is left (median)", f"{100 * figures.star_residual:.2f} %"),
        ("scatter of their pixels over the noise (median)", f"{figures.star_chi:.2f}"),
        ("detections above 5 sigma", f"{figures.n_sources}, of which {figures.n_flagged} flagged"),
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"""## {pair.title}

{pair.text}

![Science, matched template, difference and detections](gallery/{pair.name}-difference.png)

| | |
|---|---|
{table}

The highest detections (science, matched template, difference):

![Cutouts](gallery/{pair.name}-cutouts.png)

The noise of the blank sky:

![Noise](gallery/{pair.name}-noise.png)

<details><summary>What the files lacked and how it was made</summary>

{made}

</details>
"""


HEAD = """# Gallery: differences of real exposures

Made by `make gallery` (`bench/gallery.py`), which prints these figures, from public exposures that are
not part of the project; each pair is one call of `subtractExposures.py SCIENCE TEMPLATE --output DIR`
with nothing configured. Colors are the difference over its claimed noise; circles are brighter, squares
fainter than in the template.

"""


if __name__ == "__main__":
    sys.exit(main())
