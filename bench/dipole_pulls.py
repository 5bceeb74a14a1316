"""Errors of dipoles over what they claim: stars that are not in the same place in both images.

They are planted on dark sky and on galaxies, far enough from each other; the galaxies stay where they are.
What moves them is not a smooth registration error, which the kernel would follow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from planted import add_whole_stars, as_detections, nanojansky

from lsst.twinkles.diffim.adapters.camera import PIXEL_SCALE_ARCSEC

DIPOLE_KINDS = ("moment", "across", "separation")
# Pixels from one to the next, and to what varies by itself.
APART, FROM_VARIABLES = 45.0, 25.0
# Signal-to-noise ratio of the star on the difference if it were alone there, and separation over the FWHM.
STARS = (10.0, 400.0)
SEPARATIONS = (0.02, 1.0)
# Least product of the two: below it nothing would be detected.
LEAST = 3.0
# Electrons in a pixel within 12 pixels from which on the sky is not dark.
DARK = 20.0


def measure_dipoles(case: str, seed: int, size: int, kernel: str) -> dict[str, np.ndarray]:
    """Subtract a pair with stars that are not in the same place in both images, and measure what is left.

    Of registration errors there are none. The signal-to-noise ratio ``snr`` is that of the moment, ``flux
    snr`` that of the flux of the star.
    """
    from lsst.twinkles.diffim.simulation.pairs import PAIR_CASES, PairCase, simulate_pair
    from lsst.twinkles.diffim.tasks.measurement import MeasurementTask
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

    # Places for them: those of transients of next to no flux.
    seeing = PAIR_CASES[case]
    pair = simulate_pair(
        PairCase(seeing.science_fwhm, seeing.template_fwhm, 0.0),
        seed=seed,
        nx=size,
        ny=size,
        n_transients=int(size**2 / 45**2),
        signal_to_noise=(1e-3, 2e-3),
    )
    science, template, moved = plant_moved_stars(pair, np.random.default_rng([seed, 5]))
    config = TwinklesImageDifferenceTask.ConfigClass()
    config.doDetection = config.doMeasurement = False
    config.subtract.kernel = kernel
    result = TwinklesImageDifferenceTask(config=config).run(science, template, selectSources=pair.stars)
    x, y = np.asarray(moved["x"], float), np.asarray(moved["y"], float)
    sources = as_detections(x, y, np.asarray(moved["flux"], float))
    table = (
        MeasurementTask().run(result.subtractedExposure, science, result.matchedExposure, sources).diaSources
    )
    return pulls_of_dipoles(table, science, moved)


def pulls_of_dipoles(table: Any, science: Any, moved: Any) -> dict[str, np.ndarray]:
    """Return pulls of what was measured of moved stars, NaN where there is no fit or a bad pixel."""
    names = ("pixelFlags", "pixelFlags_edge")
    bad = np.any([np.asarray(table[name]) for name in names], axis=0) | ~table["dipoleFitAttempted"]
    gone = np.where(bad, np.nan, 1.0)
    dx, dy = np.asarray(moved["dx"], float), np.asarray(moved["dy"], float)
    true, length = np.asarray(moved["flux"], float) * nanojansky(science), np.hypot(dx, dy)
    vector, error = separations(table, science)
    along = (vector[:, 0] * dx + vector[:, 1] * dy) / length
    across = (vector[:, 1] * dx - vector[:, 0] * dy) / length
    flux, flux_error, moment, moment_error = (
        np.asarray(table[name], float)
        for name in ("dipoleMeanFlux", "dipoleMeanFluxErr", "dipoleMoment", "dipoleMomentErr")
    )
    arcsec = np.asarray(table["dipoleLength"], float) / np.hypot(*vector.T)  # by pixel
    return {
        "snr": true * length * arcsec / moment_error * gone,
        "on_source": np.asarray(moved["on_source"]),
        "moment": (moment - true * length * arcsec) / moment_error * gone,
        "across": across / error[:, 1] * gone,
        "separation": (along - length) / error[:, 0] * gone,
        "flux snr": true / flux_error * gone,
        "flux": (flux - true) / flux_error * gone,
    }


def plant_moved_stars(pair: Any, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Return exposures with further stars, and these, ``dx``, ``dy`` being science image less template.

    ``flux`` is in electrons of the science image, as far as they are on a stamp of its PSF; ``x`` and ``y``
    are in the middle of the two places.
    """
    moved, error = choose_places(pair, rng)
    n = len(moved)
    strength, separation = (10 ** rng.uniform(*np.log10(limits), n) for limits in (STARS, SEPARATIONS))
    fwhm = max(visit.psf.fwhm for visit in (pair.science_visit, pair.template_visit)) / PIXEL_SCALE_ARCSEC
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    moved["dx"], moved["dy"] = fwhm * separation * np.cos(angle), fwhm * separation * np.sin(angle)
    flux = strength * error
    moved["flux"] = flux * pair.science_visit.psf.enclosed()
    kept = strength * separation > LEAST
    moved, flux, exposures = moved[kept], flux[kept], []
    for visit, scale, side in ((pair.science_visit, 1.0, 0.5), (pair.template_visit, pair.scale, -0.5)):
        exposure = visit.exposure.copy()
        x, y = (np.asarray(moved[k]) + side * np.asarray(moved[f"d{k}"]) for k in ("x", "y"))
        add_whole_stars(exposure, visit.psf, x, y, scale * flux, rng)
        exposures.append(exposure)
    return exposures[0], exposures[1], moved


def choose_places(pair: Any, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    """Return places on galaxies or dark sky, apart from each other, and errors of a flux there, electrons."""
    from scipy.ndimage import maximum_filter

    planted = np.asarray(pair.truth["kind"]) == "transient"
    places = pair.truth[planted]["x", "y", "on_source", "flux_error"]
    light = sum(
        np.abs(visit.model - np.median(visit.model)) for visit in (pair.science_visit, pair.template_visit)
    )
    x, y = np.asarray(places["x"], float), np.asarray(places["y"], float)
    lit = maximum_filter(light, size=25)[np.round(y).astype(int), np.round(x).astype(int)]
    others = pair.truth[~planted & (np.asarray(pair.truth["snr"]) > 1.0)]
    taken = [np.array([a, b]) for a, b in zip(others["x"], others["y"], strict=True)]
    chosen: list[int] = []
    for i in rng.permutation(len(places)):
        here = np.array([x[i], y[i]])
        near = any(np.hypot(*(here - place)) < FROM_VARIABLES for place in taken)
        close = any(np.hypot(x[i] - x[j], y[i] - y[j]) < APART for j in chosen)
        if (places["on_source"][i] or lit[i] < DARK) and not near and not close:
            chosen.append(int(i))
    places = places[chosen]
    return places["x", "y", "on_source"], np.asarray(places["flux_error"], float)


def separations(table: Any, exposure: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return separations of lobes in pixels (x, y), and their errors along and across, both ``(N, 2)``."""
    import astropy.units as u
    from astropy.coordinates import SkyCoord

    length = np.asarray(table["dipoleLength"], float)
    angle = np.deg2rad(np.asarray(table["dipoleAngle"], float))
    ra, dec = (np.asarray(table[name], float) for name in ("ra", "dec"))
    east, north = length * np.sin(angle) / 3600.0, length * np.cos(angle) / 3600.0
    ends = [
        exposure.sky_projection.sky_to_pixel(
            SkyCoord(
                ra + s * np.nan_to_num(east) / np.cos(np.deg2rad(dec)),
                dec + s * np.nan_to_num(north),
                unit=u.deg,
            )
        )
        for s in (0.0, 1.0)
    ]
    vector = np.column_stack([ends[1].x - ends[0].x, ends[1].y - ends[0].y])
    scale = np.hypot(*vector.T) / length
    across = length * np.deg2rad(np.asarray(table["dipoleAngleErr"], float))
    return vector, np.column_stack([np.asarray(table["dipoleLengthErr"], float), across]) * scale[:, None]
