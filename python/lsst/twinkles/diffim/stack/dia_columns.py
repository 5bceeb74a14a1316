"""From the table of DIA sources of this package to the columns of the stack's catalogue."""

from __future__ import annotations

__all__ = ("centre_flags", "dia_columns", "footprint_flags")

from typing import Any

import numpy as np
from astropy.table import Table

from ..adapters.psfs import sample_psf
from ..algorithms.match.prefilter import cut_stamps
from ..algorithms.psf_grid import PsfGrid
from .dia_schema import FLAG_PLANES
from .exposures import box_from_afw, plane_pixels

_APERTURE_RADIUS = 12.0
_SHAPE_HALF = 12
_HSM_PSF, _HSM_SOURCE = "ext_shapeHSM_HsmPsfMoments", "ext_shapeHSM_HsmSourceMoments"
Columns = dict[str, np.ndarray]


def dia_columns(table: Table, exposure: Any, image: Any) -> Columns:
    """Return columns of the stack's catalogue that do not need its records.

    Parameters
    ----------
    table : `astropy.table.Table`
        DIA sources as `~lsst.twinkles.diffim.tasks.measurement.MeasurementTask` returns them, in counts.
    exposure : `lsst.afw.image.ExposureF`
        Difference.
    image : `lsst.images.VisitImage`
        The same.

    Returns
    -------
    columns : `dict` [`str`, `numpy.ndarray`]
        By names of the schema.
    """
    psf = sample_psf(image.psf, image.bbox, grid=4)
    box = image.bbox
    x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
    columns = _centroids(table, image)
    columns |= _psf_fluxes(table, psf)
    columns |= _dipoles(table, x, y, _local_matrix(exposure.getWcs(), x, y))
    columns |= _shapes(table, exposure, psf, x - box.x.start, y - box.y.start)
    columns |= _aperture_fluxes(exposure, x - box.x.start, y - box.y.start)
    columns |= _calibrations(exposure, x, y)
    columns |= _trails(table, x, y, exposure, _local_matrix(exposure.getWcs(), x, y))
    columns["is_negative"] = np.asarray(table["isNegative"], dtype=bool)
    columns["detect_isPrimary"] = np.ones(len(table), dtype=bool)
    columns["reliability"] = np.full(len(table), np.nan)
    return columns


def _centroids(table: Table, image: Any) -> Columns:
    name, box = "base_SdssCentroid", image.bbox
    failed = np.asarray(table["centroid_flag"], dtype=bool)
    x, y = np.asarray(table["x"], float), np.asarray(table["y"], float)
    errors = np.asarray(table["xErr"], float), np.asarray(table["yErr"], float)
    distance = np.minimum.reduce([x - box.x.min, box.x.max - x, y - box.y.min, box.y.max - y])
    return {
        f"{name}_x": x,
        f"{name}_y": y,
        f"{name}_xErr": errors[0],
        f"{name}_yErr": errors[1],
        f"{name}_flag": failed,
        f"{name}_flag_resetToPeak": failed,
        f"{name}_flag_near_edge": distance < _SHAPE_HALF,
        f"{name}_flag_badError": ~np.isfinite(errors[0]) | ~np.isfinite(errors[1]),
        "base_PixelFlags_flag_offimage": distance < -0.5,
    }


def _psf_fluxes(table: Table, psf: PsfGrid) -> Columns:
    area = np.full(len(table), 1.0 / (psf.mean() ** 2).sum())
    columns = {
        "base_PsfFlux_chi2": np.asarray(table["psfChi2"], float),
        "base_PsfFlux_npixels": np.asarray(table["psfNdata"], int),
    }
    for name, ours in (
        ("base_PsfFlux", "psfFlux"),
        ("ip_diffim_forced_PsfFlux", "scienceFlux"),
        ("ip_diffim_forced_template_PsfFlux", "templateFlux"),
    ):
        there = ours in table.colnames
        flux = np.asarray(table[ours], float) if there else np.full(len(table), np.nan)
        error = np.asarray(table[f"{ours}Err"], float) if there else np.full(len(table), np.nan)
        columns |= {
            f"{name}_instFlux": flux,
            f"{name}_instFluxErr": error,
            f"{name}_area": area,
            f"{name}_flag": ~np.isfinite(flux),
            f"{name}_flag_noGoodPixels": ~np.isfinite(flux),
        }
    return columns


def _dipoles(table: Table, x: np.ndarray, y: np.ndarray, matrix: np.ndarray) -> Columns:
    """Return what is known of dipoles; the position is the centroid where none was fitted."""
    name, n = "ip_diffim_DipoleFit", len(table)
    nothing = np.full(n, np.nan)

    def get(column: str) -> np.ndarray:
        return np.asarray(table[column], float) if column in table.colnames else nothing

    attempted = np.zeros(n, dtype=bool)
    if "dipoleFitAttempted" in table.colnames:
        attempted = np.asarray(table["dipoleFitAttempted"], dtype=bool)
    dx, dy = _lobe_vectors(get("dipoleLength"), get("dipoleAngle"), matrix)
    mean, half = get("dipoleMeanFlux"), 0.5 * np.nan_to_num(get("dipoleFluxDiff"))
    columns = {
        f"{name}_x": x,
        f"{name}_y": y,
        f"{name}_xErr": np.asarray(table["xErr"], float),
        f"{name}_yErr": np.asarray(table["yErr"], float),
        f"{name}_instFlux": mean,
        f"{name}_instFluxErr": get("dipoleMeanFluxErr"),
        f"{name}_pos_instFlux": mean + half,
        f"{name}_neg_instFlux": -mean + half,
        f"{name}_pos_x": x + 0.5 * dx,
        f"{name}_pos_y": y + 0.5 * dy,
        f"{name}_neg_x": x - 0.5 * dx,
        f"{name}_neg_y": y - 0.5 * dy,
        f"{name}_orientation": np.arctan2(dy, dx),
        f"{name}_separation": np.hypot(dx, dy),
        f"{name}_chi2dof": get("dipoleChi2") / np.maximum(get("dipoleNdata") - 6, 1),
        f"{name}_nData": np.nan_to_num(get("dipoleNdata")).astype(np.int64),
        f"{name}_signalToNoise": mean / get("dipoleMeanFluxErr"),
        f"{name}_classificationAttempted": attempted,
        f"{name}_flag": ~attempted,
    }
    if "isDipole" in table.colnames:
        columns[f"{name}_classification"] = np.asarray(table["isDipole"], dtype=bool)
    return columns


def _lobe_vectors(length: np.ndarray, angle: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what leads from the negative to the positive lobe, in pixels.

    Parameters
    ----------
    length, angle : `numpy.ndarray`, ``(N,)``
        Arcseconds, and degrees from north through east.
    matrix : `numpy.ndarray`, ``(N, 2, 2)``
        Derivatives of tangent-plane coordinates (east, north; radians) by pixel coordinates.
    """
    radians = np.radians(length / 3600.0)
    sky = np.stack([radians * np.sin(np.radians(angle)), radians * np.cos(np.radians(angle))], axis=-1)
    known = np.isfinite(matrix).all(axis=(1, 2)) & np.isfinite(sky).all(axis=1)
    vector = np.full((len(length), 2), np.nan)
    vector[known] = np.linalg.solve(matrix[known], sky[known][:, :, None])[:, :, 0]
    return vector[:, 0], vector[:, 1]


def _shapes(table: Table, exposure: Any, psf: PsfGrid, x: np.ndarray, y: np.ndarray) -> Columns:
    """Return adaptive moments of source and PSF, and how much the former exceed the latter."""
    ix, iy = np.rint(x).astype(int), np.rint(y).astype(int)
    sign = np.where(np.asarray(table["isNegative"], dtype=bool), -1.0, 1.0)
    stamps = cut_stamps(exposure.image.array, ix, iy, _SHAPE_HALF) * sign[:, None, None]
    source = np.array([_moments(stamp) for stamp in stamps]).reshape(-1, 5)
    model = _moments(psf.mean())
    columns: Columns = {}
    for name, values in ((_HSM_SOURCE, source), (_HSM_PSF, np.tile(model, (len(x), 1)))):
        failed = ~np.isfinite(values).all(axis=1)
        for key, column in zip(("x", "y", "xx", "yy", "xy"), values.T, strict=True):
            columns[f"{name}_{key}"] = column
        columns[f"{name}_flag"] = columns[f"{name}_flag_galsim"] = failed
    for key, start in (("x", ix), ("y", iy)):
        columns[f"{_HSM_SOURCE}_{key}"] = (
            columns[f"{_HSM_SOURCE}_{key}"] + start + exposure_start(exposure, key)
        )
    size, expected = source[:, 2] + source[:, 3], model[2] + model[3]
    chi2 = (size - expected) ** 2 / expected
    columns["base_ClassificationSizeExtendedness_value"] = 1.0 - np.exp(-0.5 * chi2)
    columns["base_ClassificationSizeExtendedness_flag"] = ~np.isfinite(chi2)
    return columns


def exposure_start(exposure: Any, axis: str) -> int:
    """Return the coordinate of the first pixel along an axis."""
    return int(exposure.getX0() if axis == "x" else exposure.getY0())


def _moments(stamp: np.ndarray) -> np.ndarray:
    """Return centroid from the central pixel and second moments, NaN if they do not converge."""
    import galsim

    half = stamp.shape[0] // 2
    image = galsim.Image(np.nan_to_num(stamp).astype(float), scale=1.0, xmin=-half, ymin=-half)
    found = galsim.hsm.FindAdaptiveMom(image, strict=False, guess_centroid=galsim.PositionD(0.0, 0.0))
    if found.error_message:
        return np.full(5, np.nan)
    shape, area = found.observed_shape, found.moments_sigma**2
    trace = area / np.sqrt(1.0 - shape.e1**2 - shape.e2**2)
    return np.array(
        [
            found.moments_centroid.x,
            found.moments_centroid.y,
            trace * (1.0 + shape.e1),
            trace * (1.0 - shape.e1),
            trace * shape.e2,
        ]
    )


def _aperture_fluxes(exposure: Any, x: np.ndarray, y: np.ndarray) -> Columns:
    """Return fluxes in circles; pixels on the rim count by how far the circle reaches into them."""
    name, half = "base_CircularApertureFlux_12_0", int(np.ceil(_APERTURE_RADIUS)) + 1
    ix, iy = np.rint(x).astype(int), np.rint(y).astype(int)
    offset = np.arange(-half, half + 1)
    distance = np.hypot(offset + (ix - x)[:, None, None], offset[:, None] + (iy - y)[:, None, None])
    weight = np.clip(_APERTURE_RADIUS + 0.5 - distance, 0.0, 1.0)
    ny, nx = exposure.image.array.shape
    outside = (ix < half) | (iy < half) | (ix >= nx - half) | (iy >= ny - half)
    flux = (cut_stamps(exposure.image.array, ix, iy, half) * weight).sum(axis=(1, 2))
    variance = (cut_stamps(exposure.variance.array, ix, iy, half) * weight**2).sum(axis=(1, 2))
    return {
        f"{name}_instFlux": flux,
        f"{name}_instFluxErr": np.sqrt(variance),
        f"{name}_flag": ~np.isfinite(flux),
        f"{name}_flag_apertureTruncated": outside,
    }


def _calibrations(exposure: Any, x: np.ndarray, y: np.ndarray) -> Columns:
    """Return the local calibration and the local linear part of the WCS."""
    from lsst.geom import Point2D

    calibration, n = exposure.photoCalib, len(x)
    columns: Columns = {"base_LocalPhotoCalibErr": np.zeros(n)}
    if calibration is None:
        columns["base_LocalPhotoCalib"] = np.full(n, np.nan)
    else:
        points = [Point2D(a, b) for a, b in zip(x, y, strict=True)]
        columns["base_LocalPhotoCalib"] = np.array([calibration.getLocalCalibration(p) for p in points])
    columns["base_LocalPhotoCalib_flag"] = ~np.isfinite(columns["base_LocalPhotoCalib"])
    matrix = _local_matrix(exposure.getWcs(), x, y)
    for row in (0, 1):
        for column in (0, 1):
            columns[f"base_LocalWcs_CDMatrix_{row + 1}_{column + 1}"] = matrix[:, row, column]
    columns["base_LocalWcs_flag"] = ~np.isfinite(matrix).all(axis=(1, 2))
    return columns


def _local_matrix(wcs: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return derivatives of tangent-plane coordinates (radians) by pixel coordinates, ``(N, 2, 2)``."""
    matrix = np.full((len(x), 2, 2), np.nan)
    if wcs is None or len(x) == 0:
        return matrix
    _, dec = wcs.pixelToSkyArray(x, y)
    for column, (dx, dy) in enumerate(((0.5, 0.0), (0.0, 0.5))):
        high, low = wcs.pixelToSkyArray(x + dx, y + dy), wcs.pixelToSkyArray(x - dx, y - dy)
        turn = np.mod(np.asarray(high[0]) - np.asarray(low[0]) + np.pi, 2 * np.pi) - np.pi
        matrix[:, 0, column] = turn * np.cos(dec)
        matrix[:, 1, column] = np.asarray(high[1]) - np.asarray(low[1])
    return matrix


def _trails(table: Table, x: np.ndarray, y: np.ndarray, exposure: Any, matrix: np.ndarray) -> Columns:
    """Return trails; where none was fitted they are flagged.

    Ends follow from middle, length and angle; errors of the ends are those of the middle and of half the
    length, which are not correlated.
    """
    name, n = "ext_trailedSources_Naive", len(table)
    if "trailLength" not in table.colnames:
        return {f"{name}_flag": np.ones(n, dtype=bool)}

    def get(column: str) -> np.ndarray:
        return np.ma.filled(np.ma.asarray(table[column]).astype(float), np.nan)

    dx, dy = _lobe_vectors(get("trailLength"), get("trailAngle"), matrix)
    length = np.hypot(dx, dy)
    scale = length / get("trailLength")
    wcs = exposure.getWcs()
    middle = [np.full(n, np.nan), np.full(n, np.nan)]
    fitted = np.isfinite(length)
    if wcs is not None and fitted.any():
        ra, dec = (np.radians(get(c)[fitted]) for c in ("trailRa", "trailDec"))
        ra0, dec0 = wcs.pixelToSkyArray(x[fitted], y[fitted])
        turn = np.mod(ra - ra0 + np.pi, 2 * np.pi) - np.pi
        sky = np.stack([turn * np.cos(dec0), dec - dec0], axis=-1)
        step = np.linalg.solve(matrix[fitted], sky[:, :, None])[:, :, 0]
        middle[0][fitted], middle[1][fitted] = x[fitted] + step[:, 0], y[fitted] + step[:, 1]
    place = np.hypot(get("trailRaErr"), get("trailDecErr")) / np.sqrt(2.0) * 3600.0 * scale
    end = np.hypot(place, 0.5 * get("trailLengthErr") * scale)
    columns = {
        f"{name}_ra": np.radians(get("trailRa")),
        f"{name}_dec": np.radians(get("trailDec")),
        f"{name}_flux": get("trailFlux"),
        f"{name}_fluxErr": get("trailFluxErr"),
        f"{name}_length": length,
        f"{name}_lengthErr": get("trailLengthErr") * scale,
        f"{name}_angle": np.arctan2(dy, dx),
        f"{name}_angleErr": np.radians(get("trailAngleErr")),
        f"{name}_flag": ~fitted,
        f"{name}_flag_edge": np.asarray(table["trail_flag_edge"], dtype=bool) & fitted,
        f"{name}_flag_noConverge": np.asarray(table["trail_flag"], dtype=bool),
    }
    for axis, centre, step in (("x", middle[0], dx), ("y", middle[1], dy)):
        for number, sign in (("0", -0.5), ("1", 0.5)):
            columns[f"{name}_{axis}{number}"] = centre + sign * step
            columns[f"{name}_{axis}{number}Err"] = end
    return columns


def centre_flags(exposure: Any, x: np.ndarray, y: np.ndarray) -> Columns:
    """Return pixel flags of the 3 x 3 pixels at positions (parent frame of the exposure)."""
    box = box_from_afw(exposure.getBBox())
    ix = np.rint(x).astype(int) - box.x.start
    iy = np.rint(y).astype(int) - box.y.start
    columns: Columns = {}
    for name, planes in FLAG_PLANES.items():
        marked = np.any([plane_pixels(exposure.mask, plane) for plane in planes], axis=0)
        near = cut_stamps(marked, ix, iy, 1)
        columns[f"base_PixelFlags_flag_{name}Center"] = near.any(axis=(1, 2))
        columns[f"base_PixelFlags_flag_{name}CenterAll"] = near.all(axis=(1, 2))
    return columns


def footprint_flags(exposure: Any, sources: Any) -> Columns:
    """Return pixel flags of the footprints of sources."""
    box = box_from_afw(exposure.getBBox())
    indices = []
    for source in sources:
        y, x = source.getFootprint().getSpans().indices()
        indices.append((np.asarray(y) - box.y.start, np.asarray(x) - box.x.start))
    columns: Columns = {}
    for name, planes in FLAG_PLANES.items():
        marked = np.any([plane_pixels(exposure.mask, plane) for plane in planes], axis=0)
        found = [bool(marked[index].any()) for index in indices]
        columns[f"base_PixelFlags_flag_{name}"] = np.array(found, dtype=bool)
    return columns
