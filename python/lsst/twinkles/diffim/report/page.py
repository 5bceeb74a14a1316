"""One page on one difference image: verdict, figures and pictures, in a single HTML file."""

from __future__ import annotations

__all__ = ("ReportInputs", "write_index", "write_page")

import base64
import html
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .cutouts import plot_cutouts
from .figures import plot_autocorrelation, plot_difference, plot_kernel
from .noise import measure_noise
from .quality_figures import measure_sky_pulls, plot_dipoles, plot_sky_pulls, plot_star_residuals
from .spatial_figures import plot_spatial_figures, summarize_spatial_figures

if TYPE_CHECKING:
    from astropy.table import Table

    from lsst.images import DifferenceImage, VisitImage

_STYLE = """
body { font-family: system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem } img { max-width: 100% }
table { border-collapse: collapse; font-size: .9rem } td, th { padding: .15rem .7rem; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums } tr:nth-child(even) { background: #f4f4f4 }
.good, .doubtful { padding: .6rem 1rem; border-left: .4rem solid }
.good { border-color: #009E73; background: #eef8f4 } .doubtful { border-color: #D55E00; background: #fdf1ea }
.columns { display: flex; flex-wrap: wrap; gap: 2rem }
figcaption, .note { color: #555; font-size: .9rem } summary { cursor: pointer; margin-top: 1rem }
"""

_LEAST_RELIABILITY = 0.5
"""Reliability of the sources that are shown."""

# Figure, what to call it, how to write it.
_MAIN_FIGURES = (
    ("nDiaSources", "sources", "{:.0f}"),
    ("nReliableDiaSources", "of them with a reliability above 0.5", "{:.0f}"),
    ("nNegativeDiaSources", "of them negative", "{:.0f}"),
    ("nDipoles", "of them dipoles", "{:.0f}"),
    ("nFlaggedDiaSources", "of them with a pixel flag", "{:.0f}"),
    ("sciencePsfSize", "FWHM of the science image (pixels)", "{:.2f}"),
    ("templatePsfSize", "FWHM of the template (pixels)", "{:.2f}"),
    ("scienceLimitingMagnitude", "5 sigma magnitude of the science image", "{:.2f}"),
    ("templateLimitingMagnitude", "5 sigma magnitude of the template", "{:.2f}"),
    ("diffimLimitingMagnitude", "5 sigma magnitude of the difference", "{:.2f}"),
    ("subtractMethod", "method", "{}"),
    ("nPsfSources", "stars tried for the kernel", "{:.0f}"),
    ("nKernelSourcesUsed", "stars that made it", "{:.0f}"),
    ("kernelStarChi2", "their median chi square a pixel", "{:.2f}"),
    ("residualFootprintRatioMean", "light of stars that is left", "{:.4f}"),
    ("kernelSumMean", "kernel sum", "{:.4f}"),
    ("kernelSumVariation", "its relative variation", "{:.1e}"),
    ("kernelOffsetMax", "largest offset of the kernel (pixels)", "{:.3f}"),
    ("skyFluxPullMean", "PSF fluxes of blank sky over errors: median", "{:+.3f}"),
    ("skyFluxPullStdev", "... scatter (1)", "{:.3f}"),
    ("noiseCorrelation", "correlation of neighbouring pixels (0)", "{:+.4f}"),
    ("scoreNoise", "scatter of the score image (1)", "{:.3f}"),
    ("scaleDiffimVarianceFactor", "factor on the variance plane", "{:.3f}"),
    ("templateCoveragePercent", "covered by the template (percent)", "{:.1f}"),
    ("badPixelFraction", "share of bad pixels", "{:.4f}"),
    ("nStreaks", "trails", "{:.0f}"),
    ("scienceCosmicRayPixels", "pixels of cosmic rays, science image", "{:.0f}"),
    ("templateCosmicRayPixels", "pixels of cosmic rays, template", "{:.0f}"),
)


@dataclass(frozen=True)
class ReportInputs:
    """What a page is made of; what is `None` is left out of it."""

    label: str
    """What it is of, for the title (`str`)."""

    difference: DifferenceImage
    """The difference (`lsst.images.DifferenceImage`)."""

    science: VisitImage | None = None
    """The science exposure (`lsst.images.VisitImage`)."""

    matched: VisitImage | None = None
    """The matched template (`lsst.images.VisitImage`)."""

    sources: Table | None = None
    """The catalogue (`astropy.table.Table`)."""

    kernel_sources: Table | None = None
    """Stars that made the kernel (`astropy.table.Table`)."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Figures by name, with ``verdict`` and ``reasons``."""

    spatial: Table | None = None
    """Spatially sampled figures (`astropy.table.Table`)."""


def write_page(inputs: ReportInputs, path: str | Path) -> Path:
    """Write a page.

    Parameters
    ----------
    inputs : `ReportInputs`
        What it is made of.
    path : `str` or `pathlib.Path`
        HTML file to write, whole or not at all; pictures are inside it.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    path = Path(path)
    sections = [_verdict(inputs.metrics), _main_figures(inputs.metrics)]
    with tempfile.TemporaryDirectory() as directory:
        for title, text, draw in _pictures(inputs):
            sections.append(_picture(title, text, draw, Path(directory) / "picture.png"))
    if inputs.spatial is not None and len(inputs.spatial):
        sections.append(_ranges(inputs.spatial))
    sections.append(_all_figures(inputs.metrics))
    return _write(path, inputs.label, "\n".join(sections))


def write_index(entries: Iterable[tuple[str, str, Mapping[str, Any]]], path: str | Path) -> Path:
    """Write a page that links to others.

    Parameters
    ----------
    entries : iterable of `tuple` [`str`, `str`, mapping]
        Label, file name and figures of each.
    path : `str` or `pathlib.Path`
        HTML file to write.

    Returns
    -------
    path : `pathlib.Path`
        The file.
    """
    columns = ("nDiaSources", "residualFootprintRatioMean", "skyFluxPullStdev", "diffimLimitingMagnitude")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("difference", "verdict", *columns))
    rows = []
    for label, file, metrics in entries:
        cells = "".join(f'<td class="number">{_number(metrics.get(name))}</td>' for name in columns)
        link = f'<a href="{html.escape(file)}">{html.escape(label)}</a>'
        rows.append(f"<tr><td>{link}</td><td>{html.escape(str(metrics.get('verdict', '')))}</td>{cells}</tr>")
    return _write(Path(path), "Difference images", f"<table><tr>{head}</tr>{''.join(rows)}</table>")


def _write(path: Path, title: str, body: str) -> Path:
    text = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n<h1>{html.escape(title)}</h1>\n{body}\n</body></html>\n"
    )
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _verdict(metrics: Mapping[str, Any]) -> str:
    """Say whether the difference is good, and if not, why."""
    verdict = metrics.get("verdict")
    if verdict is None:
        return '<p class="note">This difference was not assessed (doAssessDifference, doWriteMetrics).</p>'
    if verdict == "good":
        return '<p class="good"><b>Good</b>: no figure is beyond its limit.</p>'
    reasons = "".join(f"<li>{html.escape(str(reason))}</li>" for reason in metrics.get("reasons", []))
    return f'<div class="doubtful"><b>Doubtful</b><ul>{reasons}</ul></div>'


def _main_figures(metrics: Mapping[str, Any]) -> str:
    """Write the figures that are looked at first, in columns."""
    rows = [
        f"<tr><td>{html.escape(text)}</td>"
        f'<td class="number">{html.escape(form.format(metrics[name]))}</td></tr>'
        for name, text, form in _MAIN_FIGURES
        if metrics.get(name) is not None
    ]
    if not rows:
        return ""
    third = -(-len(rows) // 3)
    tables = (f"<table>{''.join(rows[i : i + third])}</table>" for i in range(0, len(rows), third))
    return f'<div class="columns">{"".join(tables)}</div>'


def _ranges(spatial: Table) -> str:
    """Write median and range of the figures all over the image."""
    head = "".join(f"<th>{name}</th>" for name in ("all over the image", "median", "least", "greatest"))
    rows = "".join(
        f"<tr><td>{html.escape(title)}</td>"
        + "".join(f'<td class="number">{_number(value)}</td>' for value in values)
        + "</tr>"
        for title, *values in summarize_spatial_figures(spatial)
    )
    return f"<table><tr>{head}</tr>{rows}</table>"


def _all_figures(metrics: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="number">{_number(value)}</td></tr>'
        for name, value in sorted(metrics.items())
        if name != "reasons"
    )
    return f"<details><summary>All figures</summary><table>{rows}</table></details>" if rows else ""


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else html.escape(str(value))


def _pictures(inputs: ReportInputs) -> Iterable[tuple[str, str, Callable[[Path], Any]]]:
    """Yield title, explanation and function of every picture for which there is data."""
    i = inputs
    sources = None if i.sources is None else _without_sky_sources(i.sources)
    science, matched, kernel = i.science, i.matched, _kernel(i.difference)
    if science is not None and matched is not None and sources is not None:
        believed, doubted = _believe(sources)
        yield (
            "Difference and detections",
            "Pixels of difference over their noise; circles are positive, squares negative detections."
            + doubted,
            lambda path: plot_difference(science, matched, i.difference, believed, path),
        )
        if len(believed):
            yield (
                "Detections of highest signal-to-noise",
                "Science image and template on one scale, difference on a symmetric one.",
                lambda path: plot_cutouts(science, matched, i.difference, believed, path),
            )
    if i.kernel_sources is not None and len(i.kernel_sources):
        stars = i.kernel_sources
        yield (
            "Residuals at kernel stars",
            "Nothing but noise should be left of stars. A dipole says that the registration is off, a ring "
            "that widths are.",
            lambda path: plot_star_residuals(science, i.difference, stars, path),
        )
    if kernel is not None:
        yield (
            "Matching kernel at nine positions",
            "It should change smoothly, its sum hardly.",
            lambda path: plot_kernel(kernel, i.difference, path),
        )
    yield (
        "Autocorrelation of the noise",
        "Of white noise it is 1 at lag 0 and 0 elsewhere.",
        lambda path: _draw_noise(i.difference, path),
    )
    yield (
        "PSF fluxes of blank sky",
        "Over their errors; if these are true the distribution is the normal one.",
        lambda path: plot_sky_pulls(measure_sky_pulls(i.difference), path),
    )
    if sources is not None and "isDipole" in sources.colnames and np.any(sources["isDipole"]):
        yield (
            "Dipoles",
            "Directions that agree speak of a registration error, random ones of noise or proper motions.",
            lambda path: plot_dipoles(sources, i.difference.bbox, path),
        )
    if i.spatial is not None and len(i.spatial):
        spatial = i.spatial
        yield (
            "All over the image",
            "In squares around these positions. PSFs and kernel should change smoothly, the difference be 0.",
            lambda path: plot_spatial_figures(spatial, i.difference.bbox, path),
        )


def _draw_noise(difference: DifferenceImage, path: Path) -> None:
    noise = measure_noise(difference)
    plot_autocorrelation(noise.autocorrelation, path, claimed=noise.ratio)


def _without_sky_sources(sources: Table) -> Table:
    if "sky_source" not in sources.colnames:
        return sources
    return sources[~np.asarray(sources["sky_source"], bool)]


def _believe(sources: Table) -> tuple[Table, str]:
    """Return the sources that are likely to be real, and a sentence on the others."""
    if "reliability" not in sources.colnames:
        return sources, ""
    doubtful = np.asarray(sources["reliability"], float) < _LEAST_RELIABILITY
    number = int(np.count_nonzero(doubtful))
    if number == 0:
        return sources, ""
    limit = f"a reliability below {_LEAST_RELIABILITY:g}"
    return sources[~doubtful], f" Of {len(sources)} detections {number} of {limit} are not marked."


def _kernel(difference: DifferenceImage) -> Any:
    """Return the kernel of a difference, `None` if it has none."""
    return getattr(difference, "kernel", None)  # raises AttributeError inside if there is none


def _picture(title: str, text: str, draw: Callable[[Path], Any], path: Path) -> str:
    """Draw a picture and put it into a section; a picture that cannot be drawn says why."""
    try:
        draw(path)
    except ValueError as error:
        content = f'<p class="note">No picture: {html.escape(str(error))}</p>'
    else:
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        content = (
            f'<figure><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(text)}</figcaption></figure>"
        )
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"
