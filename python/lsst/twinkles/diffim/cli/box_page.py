"""Twinkles in a box: what became of the survey, against the truth."""

from __future__ import annotations

__all__ = ("BoxResults", "write_box_page")

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import SkyCoord
from astropy.table import Table

from lsst.daf.butler import Butler, DatasetRef, MissingCollectionError, MissingDatasetTypeError
from lsst.images import DifferenceImage

from ..report.light_curves import measure_depth, measure_points, plot_light_curves, plot_stamps
from ..report.survey_page import plot_survey, write_page
from ..simulation.config import SceneConfig
from ..simulation.scene import TwinklesScene
from .box_coadds import find_coadd_differences

_SHOWN = 9
_ROWS_OF_STAMPS, _STAMPS, _HALF = 6, 9, 14
_SEEN = 5.0
_MODEL_POINTS = 300


@dataclass(frozen=True)
class BoxResults:
    """Light curves and depths of a survey.

    Attributes
    ----------
    visits : `astropy.table.Table`
        A row a visit: ``visit``, ``mjd``, ``fwhm``, ``template``, ``predicted``, ``measured``, ``coadd``.
    points : `astropy.table.Table`
        A row for each visit and thing that varies: ``object_id``, ``kind``, ``visit``, ``mjd``, ``flux`` and
        ``error`` of the difference, ``truth`` of it (nJy), ``template_flux`` (what is true of the template)
        and ``detected``.
    scene : `TwinklesScene`
        The field.
    band : `str`
        Band of the visits.
    """

    visits: Table
    points: Table
    scene: TwinklesScene
    band: str

    @classmethod
    def collect(cls, directory: Path) -> BoxResults:
        """Measure all differences of a box."""
        import json

        truth_directory = directory / "repo" / "truth"
        scene = TwinklesScene.make(SceneConfig(**json.loads((truth_directory / "scene.json").read_text())))
        depths = _coadd_depths(directory / "repo")
        visits, points = [], []
        with Butler.from_config(str(directory / "out"), writeable=False) as butler:
            refs = _find(butler, "deepDiff_differenceExp", "deepDiff")
            for ref in refs:
                difference = butler.get(ref)
                visit, template = int(ref.dataId["visit"]), int(difference.templates[0].tract)
                truths = [Table.read(truth_directory / f"visit-{n}.parquet") for n in (visit, template)]
                ids = {
                    "visit": visit,
                    "detector": ref.dataId["detector"],
                    "instrument": ref.dataId["instrument"],
                }
                scores = butler.get("deepDiff_templateScores", ids, collections="deepDiff")
                sources = butler.get("deepDiff_diaSrc", ids, collections="deepDiff")
                visits.append(_describe(difference, visit, template, scores, depths.get(visit, np.nan)))
                points.append(_compare(difference, visit, visits[-1]["mjd"], truths, sources))
        if not visits:
            raise FileNotFoundError(
                f"There are no differences in {directory / 'out'}; see the messages above."
            )
        rows = {name: np.concatenate([part[name] for part in points]) for name in points[0]}
        return cls(visits=Table(rows=visits), points=Table(rows), scene=scene, band=str(difference.band))


def _find(butler: Butler, name: str, collection: str) -> list[DatasetRef]:
    with suppress(MissingDatasetTypeError, MissingCollectionError):
        refs = butler.query_datasets(name, collections=collection, find_first=True, explain=False, limit=None)
        return sorted(refs, key=lambda ref: ref.dataId["visit"])
    return []


def _coadd_depths(repo: Path) -> dict[int, float]:
    """Return the measured depths of the differences from the coadd."""
    refs = find_coadd_differences(repo)
    with Butler.from_config(str(repo), writeable=False) as butler:
        return {visit: measure_depth(butler.get(ref)) for visit, ref in refs.items()}


def _describe(
    difference: DifferenceImage, visit: int, template: int, scores: Table, coadd: float
) -> dict[str, Any]:
    own, best = scores[scores["visit"] == visit], scores[scores["rank"] == 0]
    return {
        "visit": visit,
        "mjd": float(own["mjd"][0]),
        "fwhm": float(own["psfFwhm"][0]),
        "template": template,
        "predicted": float(best["predictedDepth"][0]),
        "measured": measure_depth(difference),
        "coadd": coadd,
    }


def _compare(
    difference: DifferenceImage, visit: int, mjd: float, truths: Sequence[Table], sources: Table
) -> dict[str, np.ndarray]:
    """Measure the flux of everything that varies, and put the truth beside it."""
    science, template = truths
    ra, dec = np.asarray(science["ra"]), np.asarray(science["dec"])
    flux, error = measure_points(difference, ra=ra, dec=dec)
    detected = np.zeros(len(science), dtype=bool)
    if len(sources):
        seen = SkyCoord(np.asarray(sources["ra"], float), np.asarray(sources["dec"], float), unit="deg")
        detected = SkyCoord(ra, dec, unit="deg").match_to_catalog_sky(seen)[1].arcsec < 0.5
    before, after = np.asarray(template["flux"], float), np.asarray(science["flux"], float)
    return {
        "object_id": np.asarray(science["object_id"]),
        "kind": np.asarray(science["kind"]).astype("U13"),
        "ra": ra,
        "dec": dec,
        "visit": np.full(len(science), visit),
        "mjd": np.full(len(science), mjd),
        "flux": flux,
        "error": error,
        "truth": after - before,
        "template_flux": before,
        "detected": detected,
    }


def write_box_page(results: BoxResults, directory: Path) -> Path:
    """Draw all pictures and write the page.

    Parameters
    ----------
    results : `BoxResults`
        What there is to show.
    directory : `pathlib.Path`
        Where to.

    Returns
    -------
    path : `pathlib.Path`
        The page.
    """
    mjd, true_fluxes = _true_fluxes(results)
    plot_survey(results.visits, directory / "survey.png")
    figures = [("Seeing, templates, depth", "survey.png")]
    for kind, title in (("supernova", "Supernovae"), ("quasar", "Images of lensed quasars")):
        chosen = _choose(results, kind)
        if not len(chosen):
            continue
        curves = [_curve(results, object_id) for object_id in chosen]
        models = [{"mjd": mjd, "flux": true_fluxes[object_id]} for object_id in chosen]
        plot_light_curves(curves, models, directory / f"{kind}.png", title=f"{title}: measured and true flux")
        figures.append((title, f"{kind}.png"))
    stamps = _cut_stamps(results, directory)
    if stamps:
        plot_stamps(
            stamps, directory / "stamps.png", title="Differences in units of the noise (blue to red: 8)"
        )
        figures.append(("Cutouts of supernovae through time", "stamps.png"))
    results.points.write(directory / "lightCurves.parquet", overwrite=True)
    results.visits.write(directory / "visits.parquet", overwrite=True)
    facts = _facts(results)
    for name, value in facts:
        print(f"      {name}: {value}")
    return write_page(
        directory / "index.html",
        title=f"Twinkles in a box: {len(results.visits)} visits in {results.band}",
        figures=figures,
        facts=facts,
        notes="Points are fluxes measured in the difference images at the true positions, plus what is true "
        "of the template; lines are the truth. All numbers are in lightCurves.parquet and visits.parquet.",
    )


def _choose(results: BoxResults, kind: str) -> list[int]:
    """Return the objects of a kind that changed most, in units of the noise."""
    points = results.points[(results.points["kind"] == kind) & np.isfinite(results.points["error"])]
    if not len(points):
        return []
    ids, index = np.unique(points["object_id"], return_inverse=True)
    power = np.bincount(index, weights=(points["truth"] / points["error"]) ** 2)
    order = np.argsort(-power)[:_SHOWN]
    return [int(ids[i]) for i in order if power[i] > _SEEN**2]


def _true_fluxes(results: BoxResults) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Return a fine grid of times, and on it the true fluxes (nJy) of everything that varies."""
    mjd = np.linspace(results.visits["mjd"].min() - 5, results.visits["mjd"].max() + 5, _MODEL_POINTS)
    tables = [results.scene.variables(mjd=time, band=results.band) for time in mjd]
    fluxes = 10 ** (0.4 * (31.4 - np.array([np.asarray(table["magnitude"]) for table in tables])))
    return mjd, dict(zip(tables[0]["object_id"].tolist(), fluxes.T, strict=True))


def _curve(results: BoxResults, object_id: int) -> Table:
    """Return the measured light curve of an object."""
    points = results.points[results.points["object_id"] == object_id]
    points = points[np.isfinite(points["flux"])]
    return Table(
        {"mjd": points["mjd"], "flux": points["flux"] + points["template_flux"], "error": points["error"]},
        meta={"label": f"{points['kind'][0]} {object_id}"},
    )


def _cut_stamps(results: BoxResults, directory: Path) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Return cutouts around the supernovae that changed most, in the order of time."""
    rows = []
    with Butler.from_config(str(directory / "out"), writeable=False) as butler:
        refs = {int(ref.dataId["visit"]): ref for ref in _find(butler, "deepDiff_differenceExp", "deepDiff")}
        for object_id in _choose(results, "supernova")[:_ROWS_OF_STAMPS]:
            points = results.points[results.points["object_id"] == object_id]
            points = points[np.isfinite(points["error"])]
            middle = int(np.argmax(points["truth"] / points["error"]))
            first = max(0, min(middle - _STAMPS // 3, len(points) - _STAMPS))
            stamps = [
                (
                    f"{point['mjd']:.0f}",
                    _cut(butler.get(refs[int(point["visit"])]), point["ra"], point["dec"]),
                )
                for point in points[first : first + _STAMPS]
            ]
            rows.append((f"SN {object_id}", stamps))
    return rows


def _cut(difference: DifferenceImage, ra: float, dec: float) -> np.ndarray:
    """Return pixels around a position in units of the noise; NaN beyond the image."""
    there = difference.sky_projection.sky_to_pixel(SkyCoord(ra, dec, unit="deg"))
    x, y = round(float(there.x)) - difference.bbox.x.start, round(float(there.y)) - difference.bbox.y.start
    padded = np.pad(
        difference.image.array / np.sqrt(difference.variance.array), _HALF, constant_values=np.nan
    )
    return padded[y : y + 2 * _HALF + 1, x : x + 2 * _HALF + 1]


def _facts(results: BoxResults) -> list[tuple[str, str]]:
    """Return what the page says in numbers."""
    visits, points = results.visits, results.points
    good = points[np.isfinite(points["flux"]) & (points["error"] > 0)]
    pull = np.asarray((good["flux"] - good["truth"]) / good["error"])
    snr = np.abs(good["truth"] / good["error"])
    seen = snr >= _SEEN
    offset = np.asarray(visits["measured"] - visits["predicted"], float)
    gain = np.asarray(visits["coadd"] - visits["measured"], float)
    facts = [
        ("visits, templates among them", f"{len(visits)}, {len(np.unique(visits['template']))}"),
        ("seeing (FWHM)", f"{visits['fwhm'].min():.2f} to {visits['fwhm'].max():.2f} arcsec"),
        ("median 5 sigma depth, best single template", f"{np.nanmedian(visits['measured']):.2f} mag"),
        (
            "measured minus predicted depth (mean, rms)",
            f"{np.nanmean(offset):+.3f}, {np.sqrt(np.nanmean(offset**2)):.3f} mag",
        ),
        ("changes of 5 sigma that were detected", f"{good['detected'][seen].sum()} of {seen.sum()}"),
        ("(measured minus true flux) / error: robust rms", f"{1.4826 * np.median(np.abs(pull)):.2f}"),
    ]
    if np.isfinite(gain).any():
        facts.append(("gain of the coadded template (median)", f"{np.nanmedian(gain):+.2f} mag"))
    plurals = {"supernova": "supernovae", "quasar": "images of quasars", "variable_star": "variable stars"}
    for kind, plural in plurals.items():
        of_kind = good["kind"] == kind
        found = len(np.unique(good["object_id"][of_kind & seen & good["detected"]]))
        possible = len(np.unique(good["object_id"][of_kind & seen]))
        facts.append((f"{plural} of 5 sigma in a visit, and found", f"{possible}, {found}"))
    return facts
