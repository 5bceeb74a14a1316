"""Pairs of exposures with planted transients, on which quality is measured."""

from __future__ import annotations

__all__ = ("PAIR_CASES", "PairCase", "SimulatedPair", "simulate_pair")

from dataclasses import dataclass

import numpy as np
from astropy.table import Table

from lsst.images import VisitImage

from ..adapters.camera import PIXEL_SCALE_ARCSEC
from .atmosphere import VaryingPsf
from .conditions import VisitConditions, sky_electrons
from .config import DetectorConfig, SceneConfig
from .scene import TwinklesScene
from .truth import mean_around, optimal_flux_error
from .visits import SimulatedVisit, simulate_visit

_RIM = 25
_CLOSEST = 25.0
_TEMPLATE_TRANSPARENCY = 1 / 1.05


@dataclass(frozen=True)
class PairCase:
    """Seeing of science and template (FWHM, arcsec) and their registration error (pixels)."""

    science_fwhm: float
    template_fwhm: float
    jitter: float


PAIR_CASES = {
    "std": PairCase(0.95, 0.65, 0.03),
    "rev": PairCase(0.65, 0.95, 0.03),
    "eq": PairCase(0.80, 0.78, 0.03),
    "shift": PairCase(0.95, 0.65, 0.10),
    "exact": PairCase(0.95, 0.65, 0.00),
}
"""Science wider, template wider, equal seeing, poor registration, perfect registration."""


@dataclass(frozen=True)
class SimulatedPair:
    """Science and template exposures of one field, with the truth.

    Attributes
    ----------
    case, seed : `str`, `int`
        What was asked for; the name of a case of one's own is ``other``.
    science_visit, template_visit : `SimulatedVisit`
        The two visits.
    truth : `astropy.table.Table`
        Planted transients and the field's own variables: ``kind``
        (transient or variable), ``x``, ``y`` (pixels of the science image),
        ``difference_flux``, ``flux_error`` (the best possible), both in
        electrons of the science image, ``snr`` and ``on_source``.
    stars : `astropy.table.Table`
        Static stars that are nowhere near saturation: ``x``, ``y``, ``flux``
        (electrons of the science image).
    """

    case: str
    seed: int
    science_visit: SimulatedVisit
    template_visit: SimulatedVisit
    truth: Table
    stars: Table

    @property
    def science(self) -> VisitImage:
        """The science exposure (`lsst.images.VisitImage`)."""
        return self.science_visit.exposure

    @property
    def template(self) -> VisitImage:
        """The template exposure (`lsst.images.VisitImage`)."""
        return self.template_visit.exposure

    @property
    def scale(self) -> float:
        """Electrons of the template for one electron of the science image (`float`)."""
        return _flux_scale(self.science_visit, self.template_visit)


def simulate_pair(
    case: str | PairCase = "std",
    *,
    seed: int = 1,
    nx: int = 1024,
    ny: int = 1024,
    n_transients: int | None = None,
    signal_to_noise: tuple[float, float] = (3.0, 50.0),
) -> SimulatedPair:
    """Simulate a pair of r exposures with transients of known signal-to-noise.

    Parameters
    ----------
    case : `str` or `PairCase`, optional
        One of `PAIR_CASES`, or another.
    seed : `int`, optional
        Same seed, same pair.
    nx, ny : `int`, optional
        Pixels.
    n_transients : `int`, optional
        Planted transients, three quarters of them brighter in the science
        image, half of them on galaxies; by default about one in 120 x 120
        pixels. Fewer if they find no room.
    signal_to_noise : 2-tuple of `float`, optional
        Least and greatest signal-to-noise ratio that transients would have on
        blank sky; they are log-uniform between them.

    Returns
    -------
    pair : `SimulatedPair`
        Exposures with their sky (it has a gradient) and the truth.
    """
    name, kind = (case, PAIR_CASES.get(case)) if isinstance(case, str) else ("other", case)
    if kind is None:
        raise ValueError(f"case must be one of {', '.join(PAIR_CASES)}; got {name!r}.")
    fwhms = kind.science_fwhm, kind.template_fwhm
    config = SceneConfig(nx=nx, ny=ny, seed=seed, star_bright_limit=15.0, supernovae_per_year=0.0)
    scene = TwinklesScene.make(config)
    conditions = [
        _conditions(visit, fwhm, transparency)
        for visit, fwhm, transparency in ((2, fwhms[0], 1.0), (1, fwhms[1], _TEMPLATE_TRANSPARENCY))
    ]
    psfs = [
        VaryingPsf.draw_random(
            np.random.default_rng([seed, 11, item.visit]),
            fwhm=item.fwhm,
            fwhm_variation=0.05,
            ellipticity=0.05,
            nx=nx,
            ny=ny,
        )
        for item in conditions
    ]
    count = _transient_count(nx, ny) if n_transients is None else n_transients
    planted = _plant(scene, conditions, psfs, count, signal_to_noise)
    science, template = _expose(scene, conditions, psfs, planted, kind.jitter)
    return SimulatedPair(
        case=name,
        seed=seed,
        science_visit=science,
        template_visit=template,
        truth=_truth(science, template, planted),
        stars=_static_stars(scene, science, template),
    )


def _conditions(visit: int, fwhm: float, transparency: float) -> VisitConditions:
    """Return r conditions with an exact FWHM."""
    return VisitConditions(
        visit=visit,
        band="r",
        mjd=59600.0 + 365.0 * visit,
        fwhm_eff=fwhm / 0.865,
        sky_magnitude=20.9,
        transparency=transparency,
    )


def _transient_count(nx: int, ny: int) -> int:
    """Return how many transients a field gets by default."""
    return int(np.clip(nx * ny / 120**2, 20, 800))


def _expose(
    scene: TwinklesScene,
    conditions: list[VisitConditions],
    psfs: list[VaryingPsf],
    planted: Table,
    jitter: float,
) -> list[SimulatedVisit]:
    """Expose science and template, positive transients in the one and negative ones in the other."""
    visits = []
    # The science image defines the positions; the template is off.
    for sign, item, psf, error in ((1, conditions[0], psfs[0], 0.0), (-1, conditions[1], psfs[1], jitter)):
        extra = planted[np.sign(planted["difference_flux"]) == sign]
        extra["electrons"] = np.abs(extra["difference_flux"]) * item.transparency
        detector = DetectorConfig(jitter=error, subtract_sky=False)
        visits.append(simulate_visit(scene, item, detector=detector, psf=psf, extra_points=extra))
    return visits


def _plant(
    scene: TwinklesScene,
    conditions: list[VisitConditions],
    psfs: list[VaryingPsf],
    count: int,
    signal_to_noise: tuple[float, float],
) -> Table:
    """Choose positions and fluxes of transients.

    Fluxes are in electrons of the science image, for a nominal signal-to-noise
    on the sky that is log-uniform; the truth has the one that the local noise
    allows.
    """
    config = scene.config
    rng = np.random.default_rng([config.seed, 13])
    positions, on_host = _choose_positions(rng, scene, count)
    sky = [sky_electrons(item) + 81.0 for item in conditions]
    error = float(
        optimal_flux_error(
            psfs[0].middle_stamp(), psfs[1].middle_stamp(), sky[0], sky[1] / _TEMPLATE_TRANSPARENCY**2
        )
    )
    least, most = np.log10(signal_to_noise)
    snr = 10 ** rng.uniform(least, most, len(positions))
    sign = np.where(rng.uniform(size=len(positions)) < 0.75, 1, -1)
    planted = Table()
    planted["x"], planted["y"] = positions.T
    planted["on_host"] = on_host
    planted["difference_flux"] = sign * snr * error
    return planted


def _choose_positions(
    rng: np.random.Generator, scene: TwinklesScene, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose places, half of them on galaxies, none near another or a bright star.

    Returns
    -------
    positions : `numpy.ndarray`, ``(N, 2)``
        (x, y) in pixels of the field.
    on_host : `numpy.ndarray`, ``(N,)``, bool
        Whether a galaxy was chosen first.
    """
    nx, ny = scene.config.nx, scene.config.ny
    hosts = scene.galaxies[np.asarray(scene.galaxies["mag_r"]) < 24.5]
    near_stars = _bright_things(scene)
    chosen: list[np.ndarray] = []
    on_host: list[bool] = []
    for _ in range(100 * count):
        if len(chosen) == count:
            break
        place = rng.uniform((0, 0), (nx, ny))
        hosted = bool(rng.uniform() < 0.5) and len(hosts) > 0
        if hosted:
            host = hosts[int(rng.integers(len(hosts)))]
            spread = 0.8 * host["half_light_radius"] / PIXEL_SCALE_ARCSEC
            place = np.array([host["x"], host["y"]]) + spread * rng.standard_normal(2)
        inside = np.all((place > _RIM) & (place < np.array([nx, ny]) - 1 - _RIM))
        if inside and _is_clear(place, near_stars, 12.0) and _is_clear(place, np.array(chosen), _CLOSEST):
            chosen.append(place)
            on_host.append(hosted)
    return np.array(chosen).reshape(-1, 2), np.array(on_host, dtype=bool)


def _bright_things(scene: TwinklesScene) -> np.ndarray:
    """Return positions ``(N, 2)`` of stars and quasars of r < 21."""
    tables = (scene.stars, scene.variable_stars.table, scene.quasars.images)
    bright = [table[np.asarray(table["mag_r"]) < 21] for table in tables]
    return np.concatenate([np.stack([np.asarray(t["x"]), np.asarray(t["y"])], axis=1) for t in bright])


def _is_clear(place: np.ndarray, others: np.ndarray, radius: float) -> bool:
    """Tell whether no other position lies within a radius."""
    return len(others) == 0 or bool(np.min(np.hypot(*(others - place).T)) > radius)


def _truth(science: SimulatedVisit, template: SimulatedVisit, planted: Table) -> Table:
    """Return planted transients and the field's own variables in pixels of the science image."""
    own, scale = science.truth, _flux_scale(science, template)
    change = np.asarray(own["electrons"]) - np.asarray(template.truth["electrons"]) / scale
    x, y = science.displace(np.asarray(planted["x"]), np.asarray(planted["y"]))
    truth = Table()
    truth["kind"] = np.array(["transient"] * len(planted) + ["variable"] * len(own), dtype="U9")
    truth["x"] = np.concatenate([x, np.asarray(own["x"])])
    truth["y"] = np.concatenate([y, np.asarray(own["y"])])
    truth["difference_flux"] = np.concatenate([planted["difference_flux"], change])
    truth["on_source"] = np.concatenate([planted["on_host"], np.ones(len(own), dtype=bool)])
    ny, nx = science.model.shape
    truth = truth[(truth["x"] > 0) & (truth["y"] > 0) & (truth["x"] < nx - 1) & (truth["y"] < ny - 1)]
    column, row = np.round(truth["x"]).astype(int), np.round(truth["y"]).astype(int)
    truth["flux_error"] = optimal_flux_error(
        science.psf.middle_stamp(),
        template.psf.middle_stamp(),
        mean_around(science.true_variance, row, column),
        mean_around(template.true_variance, row, column) / scale**2,
    )
    truth["snr"] = np.abs(truth["difference_flux"]) / truth["flux_error"]
    return truth


def _flux_scale(science: SimulatedVisit, template: SimulatedVisit) -> float:
    """Return the electrons of the template for one electron of the science image."""
    return float(10 ** (0.4 * (template.conditions.zero_point - science.conditions.zero_point)))


def _static_stars(scene: TwinklesScene, science: SimulatedVisit, template: SimulatedVisit) -> Table:
    """Return stars of r < 23 that are well below saturation in both images."""
    x, y = science.displace(np.asarray(scene.stars["x"]), np.asarray(scene.stars["y"]))
    magnitude = np.asarray(scene.stars["mag_r"])
    stars = Table({"x": x, "y": y, "flux": 10 ** (0.4 * (science.conditions.zero_point - magnitude))})
    ny, nx = science.model.shape
    sharpest = max(visit.psf.middle_stamp().max() for visit in (science, template))
    keep = (magnitude < 23) & (stars["flux"] * sharpest < 0.8 * DetectorConfig().full_well)
    keep &= (stars["x"] > 5) & (stars["y"] > 5) & (stars["x"] < nx - 6) & (stars["y"] < ny - 6)
    return stars[keep]
