"""A visit to the simulated field, as a calibrated exposure and its truth."""

from __future__ import annotations

__all__ = ("SimulatedVisit", "make_exposure", "simulate_visit")

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.time import Time, TimeDelta
from astropy.wcs import WCS

from lsst.images import Box, Image, Mask, ObservationSummaryStats, VisitImage
from lsst.images.fields import ChebyshevField

from ..adapters.camera import (
    DETECTOR_ID,
    DETECTOR_NAME,
    INSTRUMENT_NAME,
    NAME_IN_RAFT,
    PIXEL_SCALE_ARCSEC,
    RAFT_NAME,
    make_detector,
    make_sky_projection,
)
from ..adapters.masks import visit_mask_schema
from ..adapters.psfs import psf_from_grid
from .atmosphere import VaryingPsf, draw_sky
from .ccd import Readout, expose
from .conditions import VisitConditions, sky_electrons
from .config import DetectorConfig
from .rendering import render_galaxies, render_points
from .scene import TwinklesScene, field_wcs


@dataclass(frozen=True)
class SimulatedVisit:
    """One exposure with everything that is known about it.

    Attributes
    ----------
    exposure : `lsst.images.VisitImage`
        What a pipeline would hand on: electrons, with photometric scaling.
    truth : `astropy.table.Table`
        The variable things at this time (`TwinklesScene.variables`): true
        ``x``, ``y`` in this exposure, ``ra``, ``dec``, ``magnitude``,
        ``flux`` (nJy) and ``electrons``.
    conditions : `VisitConditions`
        Under which it was taken.
    psf : `VaryingPsf`
        The true PSF.
    model : `numpy.ndarray`, ``(ny, nx)``, float32
        Expected electrons of all sources.
    sky : `numpy.ndarray`, ``(ny, nx)``, float32
        Expected electrons of the sky.
    read_noise : `float`
        Electrons.
    displace : callable
        ``(x, y)`` pixels of the field -> pixels of this exposure, with the
        registration error that the WCS does not know.
    """

    exposure: VisitImage
    truth: Table
    conditions: VisitConditions
    psf: VaryingPsf
    model: np.ndarray
    sky: np.ndarray
    read_noise: float
    displace: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

    @property
    def true_variance(self) -> np.ndarray:
        """Variance of the noise in electrons squared (`numpy.ndarray`, ``(ny, nx)``)."""
        return np.maximum(self.model + self.sky, 1.0) + self.read_noise**2


def simulate_visit(
    scene: TwinklesScene,
    conditions: VisitConditions,
    *,
    detector: DetectorConfig | None = None,
    psf: VaryingPsf | None = None,
    extra_points: Table | None = None,
) -> SimulatedVisit:
    """Take an exposure of the field.

    Parameters
    ----------
    scene : `TwinklesScene`
        The field.
    conditions : `VisitConditions`
        Band, time, seeing and sky of the visit.
    detector : `DetectorConfig`, optional
        Properties of telescope and CCD.
    psf : `VaryingPsf`, optional
        PSF to use instead of one drawn for this visit.
    extra_points : `astropy.table.Table`, optional
        Further point sources: ``x``, ``y`` (pixels of the field), ``electrons``.

    Returns
    -------
    visit : `SimulatedVisit`
        Exposure and truth. The same scene and conditions give the same pixels.
    """
    detector = DetectorConfig() if detector is None else detector
    config = scene.config
    rng = np.random.default_rng([config.seed, 7, conditions.visit])
    if psf is None:
        psf = VaryingPsf.draw_random(
            rng,
            fwhm=conditions.fwhm,
            fwhm_variation=detector.fwhm_variation,
            ellipticity=detector.ellipticity,
            nx=config.nx,
            ny=config.ny,
        )
    wcs = field_wcs(config, offset=conditions.offset, rotation=conditions.rotation)
    displace = _draw_displacement(rng, scene, wcs, jitter=detector.jitter)
    level = sky_electrons(conditions)
    sky = draw_sky(rng, level=level, gradient=detector.sky_gradient, nx=config.nx, ny=config.ny)
    truth = _locate_variables(scene, conditions, displace)
    model = _render(scene, conditions, psf, displace, truth)
    if extra_points is not None:
        x, y = displace(np.asarray(extra_points["x"]), np.asarray(extra_points["y"]))
        render_points(model, psf, x=x, y=y, flux=np.asarray(extra_points["electrons"]))
    readout = expose(model + sky, rng, detector)
    if detector.subtract_sky:
        readout.image[...] -= (level + (1 - detector.sky_residual) * (sky - level)).astype(np.float32)
    return SimulatedVisit(
        exposure=make_exposure(readout, wcs, conditions, psf, sky_level=level),
        truth=truth,
        conditions=conditions,
        psf=psf,
        model=model.astype(np.float32),
        sky=sky.astype(np.float32),
        read_noise=detector.read_noise,
        displace=displace,
    )


def make_exposure(
    readout: Readout, wcs: WCS, conditions: VisitConditions, psf: VaryingPsf, *, sky_level: float
) -> VisitImage:
    """Put the pixels of a readout into the form a pipeline reads.

    Parameters
    ----------
    readout : `Readout`
        Image, variance and masks; the arrays are used, not copied.
    wcs : `astropy.wcs.WCS`
        Projection of the pixels.
    conditions : `VisitConditions`
        Of the visit.
    psf : `VaryingPsf`
        The PSF; the exposure carries it as a Piff model on 6 x 6 stamps.
    sky_level : `float`
        Electrons per pixel, for the summary.

    Returns
    -------
    exposure : `lsst.images.VisitImage`
        In electrons.
    """
    ny, nx = readout.image.shape
    bbox = Box.factory[0:ny, 0:nx]
    mask = Mask(schema=visit_mask_schema(), bbox=bbox)
    for plane, pixels in readout.masks.items():
        mask.set(plane, pixels)
    # Calibrated as pipelines do, on fluxes of stars within the stamps of the PSF model.
    scaling = np.array([[conditions.nanojansky_per_electron / psf.enclosed()]])
    return VisitImage(
        Image(readout.image, bbox=bbox, unit=u.electron),
        mask=mask,
        variance=Image(readout.variance, bbox=bbox, unit=u.electron**2),
        sky_projection=make_sky_projection(wcs, visit=conditions.visit, bbox=bbox),
        obs_info=_observation_info(wcs, conditions),
        summary_stats=_summary(readout, wcs, conditions, psf, sky_level),
        photometric_scaling=ChebyshevField(bbox, scaling, unit=u.nJy / u.electron),
        psf=psf_from_grid(psf.grid(nx=nx, ny=ny), bbox),
        detector=make_detector(conditions.visit, bbox=bbox),
        band=conditions.band,
    )


def _render(
    scene: TwinklesScene,
    conditions: VisitConditions,
    psf: VaryingPsf,
    displace: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    truth: Table,
) -> np.ndarray:
    """Return the expected electrons of all sources, ``(ny, nx)``, float64."""
    model = np.zeros((scene.config.ny, scene.config.nx))

    def electrons(table: Table) -> np.ndarray:
        return 10 ** (0.4 * (conditions.zero_point - np.asarray(table[f"mag_{conditions.band}"])))

    stars, galaxies = scene.stars, scene.galaxies
    x, y = displace(np.asarray(stars["x"]), np.asarray(stars["y"]))
    render_points(model, psf, x=x, y=y, flux=electrons(stars))
    x, y = displace(np.asarray(galaxies["x"]), np.asarray(galaxies["y"]))
    render_galaxies(model, psf, galaxies, x=x, y=y, flux=electrons(galaxies), rotation=conditions.rotation)
    # Electrons under a thousandth of the sky's noise are not worth drawing.
    seen = truth["electrons"] > 0.1
    render_points(
        model,
        psf,
        x=np.asarray(truth["x"])[seen],
        y=np.asarray(truth["y"])[seen],
        flux=np.asarray(truth["electrons"])[seen],
    )
    return model


def _draw_displacement(
    rng: np.random.Generator, scene: TwinklesScene, wcs: WCS, *, jitter: float
) -> Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Draw the registration error of a visit and return field pixels -> visit pixels."""
    angle = rng.uniform(0, 2 * np.pi)
    dx, dy = jitter * np.cos(angle), jitter * np.sin(angle)
    twist = 0.4 * jitter
    field, nx, ny = scene.wcs, scene.config.nx, scene.config.ny
    same = np.allclose(field.wcs.crpix, wcs.wcs.crpix) and np.allclose(field.wcs.cd, wcs.wcs.cd, rtol=1e-12)

    def displace(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u_, v_ = 2 * x / nx - 1, 2 * y / ny - 1
        if not same:
            x, y = wcs.all_world2pix(*field.all_pix2world(x, y, 0), 0)
        return np.asarray(x) + dx + twist * v_, np.asarray(y) + dy - twist * u_

    return displace


def _locate_variables(
    scene: TwinklesScene,
    conditions: VisitConditions,
    displace: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Table:
    """Return the truth of the variable things in one visit."""
    truth = scene.variables(mjd=conditions.mjd, band=conditions.band)
    x, y = np.asarray(truth["x"]), np.asarray(truth["y"])
    ra, dec = scene.wcs.all_pix2world(x, y, 0) if len(truth) else (x, y)
    truth["ra"], truth["dec"] = np.asarray(ra) * u.deg, np.asarray(dec) * u.deg
    truth["x"], truth["y"] = (np.asarray(values) * u.pixel for values in displace(x, y))
    magnitude = np.asarray(truth["magnitude"])
    truth["flux"] = 10 ** (0.4 * (31.4 - magnitude)) * u.nJy
    truth["electrons"] = 10 ** (0.4 * (conditions.zero_point - magnitude)) * u.electron
    truth["magnitude"].unit = u.mag
    truth.meta.update(visit=conditions.visit, band=conditions.band, mjd=conditions.mjd)
    return truth


def _observation_info(wcs: WCS, conditions: VisitConditions) -> ObservationInfo:
    """Describe the visit in standard terms."""
    half = TimeDelta(conditions.exposure_time / 2 * u.s)
    middle = Time(conditions.mjd, format="mjd", scale="tai")
    night = Time(conditions.mjd - 0.5, format="mjd", scale="tai")
    return ObservationInfo(
        telescope="Simulated LSST",
        instrument=INSTRUMENT_NAME,
        exposure_id=conditions.visit,
        visit_id=conditions.visit,
        observation_id=str(conditions.visit),
        exposure_group=str(conditions.visit),
        physical_filter=conditions.band,
        datetime_begin=middle - half,
        datetime_end=middle + half,
        exposure_time=conditions.exposure_time * u.s,
        observing_day=int(night.strftime("%Y%m%d")),
        detector_num=DETECTOR_ID,
        detector_name=NAME_IN_RAFT,
        detector_group=RAFT_NAME,
        detector_unique_name=DETECTOR_NAME,
        tracking_radec=SkyCoord(*wcs.wcs.crval, unit="deg", frame="icrs"),
        object="Twinkles field 1427",
        science_program="Twinkles",
        observation_type="science",
        observation_reason="science",
        has_simulated_content=True,
    )


def _summary(
    readout: Readout, wcs: WCS, conditions: VisitConditions, psf: VaryingPsf, sky_level: float
) -> ObservationSummaryStats:
    """Summarise the exposure as the calibration step of a pipeline does."""
    ny, nx = readout.image.shape
    stamp = psf.middle_stamp()
    corners = wcs.all_pix2world([0, nx - 1, nx - 1, 0], [0, 0, ny - 1, ny - 1], 0)
    ra, dec = wcs.all_pix2world((nx - 1) / 2, (ny - 1) / 2, 0)
    variance = float(np.median(readout.variance))
    values: dict[str, Any] = dict(
        psfSigma=psf.fwhm / PIXEL_SCALE_ARCSEC / 2.355,
        psfArea=float(1 / np.sum(stamp**2)),
        ra=float(ra),
        dec=float(dec),
        pixelScale=PIXEL_SCALE_ARCSEC,
        expTime=conditions.exposure_time,
        zeroPoint=conditions.zero_point + 2.5 * float(np.log10(psf.enclosed())),
        skyBg=sky_level,
        skyNoise=float(np.sqrt(variance)),
        meanVar=variance,
        raCorners=corners[0].tolist(),
        decCorners=corners[1].tolist(),
    )
    return ObservationSummaryStats(**values)
