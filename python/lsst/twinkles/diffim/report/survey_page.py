"""A page of HTML that shows what became of a survey."""

from __future__ import annotations

__all__ = ("plot_survey", "write_page")

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from .figures import save_figure

if TYPE_CHECKING:
    from astropy.table import Table

_STYLE = (
    "body{font-family:sans-serif;max-width:76em;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border-bottom:1px solid #ccc;padding:.25em .8em;text-align:right}td:first-child{text-align:left}"
    "code{background:#f3f3f3;padding:.1em .3em}"
)


def plot_survey(visits: Table, path: str | Path) -> Path:
    """Draw seeing, choice of templates and depth of a survey.

    Parameters
    ----------
    visits : `astropy.table.Table`
        A row a visit: ``visit``, ``mjd``, ``fwhm`` (arcsec), ``template``, ``predicted``, ``measured``
        and ``coadd`` (depths in mag; NaN where there is none).
    path : `str` or `pathlib.Path`
        PNG to write.
    """
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    seeing, depth, gain = figure.subplots(1, 3)
    mjd, fwhm = np.asarray(visits["mjd"]), np.asarray(visits["fwhm"])
    used = {int(v): int(np.sum(visits["template"] == v)) for v in visits["visit"]}
    times = np.array([used[int(v)] for v in visits["visit"]])
    seeing.scatter(mjd, fwhm, s=8, color="0.6", label="visit")
    seeing.scatter(
        mjd[times > 0], fwhm[times > 0], s=20 + 12 * times[times > 0], color="tab:orange", alpha=0.7,
        label="template (size: how often)",
    )  # fmt: skip
    seeing.set_xlabel("MJD")
    seeing.set_ylabel("FWHM / arcsec")
    seeing.legend(fontsize=8)
    depth.plot(visits["predicted"], visits["measured"], "o", ms=4)
    known = np.isfinite(visits["predicted"]) & np.isfinite(visits["measured"])
    if known.any():
        low, high = (f(visits["predicted"][known]) for f in (np.min, np.max))
        depth.plot([low, high], [low, high], color="0.5", lw=1)
    depth.set_xlabel("predicted 5 sigma depth / mag")
    depth.set_ylabel("measured")
    gain.plot(visits["measured"], visits["coadd"] - visits["measured"], "o", ms=4, color="tab:green")
    gain.axhline(0.0, color="0.5", lw=1)
    gain.set_xlabel("depth with the best single visit / mag")
    gain.set_ylabel("gain of the coadded template / mag")
    return save_figure(figure, path)


def write_page(
    path: Path,
    *,
    title: str,
    figures: Sequence[tuple[str, str]],
    facts: Sequence[tuple[str, str]],
    notes: str,
) -> Path:
    """Write the page.

    Parameters
    ----------
    path : `pathlib.Path`
        File to write.
    title : `str`
        Heading.
    figures : sequence of `tuple` [`str`, `str`]
        Caption and name of each picture, which lie beside the page.
    facts : sequence of `tuple` [`str`, `str`]
        What was measured, and the value.
    notes : `str`
        A paragraph at the end.
    """
    rows = "\n".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in facts)
    pictures = "\n".join(
        f"<h2>{html.escape(caption)}</h2>\n<img src='{html.escape(name)}' alt='{html.escape(caption)}'>"
        for caption, name in figures
    )
    path.write_text(
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style></head>\n<body><h1>{html.escape(title)}</h1>\n<table>\n{rows}\n</table>\n"
        f"{pictures}\n<p>{html.escape(notes)}</p></body></html>\n"
    )
    return path
