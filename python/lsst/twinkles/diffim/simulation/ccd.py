"""From expected electrons to what the CCD reads out."""

from __future__ import annotations

__all__ = ("Readout", "bleed", "expose")

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .config import DetectorConfig


@dataclass(frozen=True)
class Readout:
    """What comes off the CCD.

    Attributes
    ----------
    image : `numpy.ndarray`, ``(ny, nx)``, float32
        Electrons, sky included; 0 in bad columns.
    variance : `numpy.ndarray`, ``(ny, nx)``, float32
        As a pipeline makes it: observed counts and read noise, so that it
        follows the noise of the image. The median where anything is masked.
    masks : `dict` [`str`, `numpy.ndarray`]
        Boolean ``(ny, nx)`` for each of SATURATED, BAD and COSMIC_RAY.
    """

    image: np.ndarray
    variance: np.ndarray
    masks: dict[str, np.ndarray]


def expose(mean: np.ndarray, rng: np.random.Generator, config: DetectorConfig) -> Readout:
    """Expose the CCD.

    Parameters
    ----------
    mean : `numpy.ndarray`, ``(ny, nx)``
        Expected electrons, sky included.
    rng : `numpy.random.Generator`
        Source of all noise.
    config : `DetectorConfig`
        Properties of the CCD.

    Returns
    -------
    readout : `Readout`
        Image, variance and masks.
    """
    electrons = rng.poisson(np.clip(mean, 0, None)).astype(np.float64)
    cosmic_rays = _hit(electrons, rng, config)
    saturated = bleed(electrons, full_well=config.full_well)
    electrons += rng.normal(0.0, config.read_noise, mean.shape)
    bad = _break_columns(electrons, rng, config)
    masks = {
        # Neighbours of saturated pixels are not linear either.
        "SATURATED": ndimage.binary_dilation(saturated, iterations=2) if saturated.any() else saturated,
        "BAD": bad,
        "COSMIC_RAY": cosmic_rays,
    }
    variance = np.clip(electrons, 1.0, None) + config.read_noise**2
    anything = masks["SATURATED"] | bad | cosmic_rays
    variance[anything] = np.median(variance[~anything]) if not anything.all() else 1.0
    return Readout(image=electrons.astype(np.float32), variance=variance.astype(np.float32), masks=masks)


def bleed(electrons: np.ndarray, *, full_well: float) -> np.ndarray:
    """Let saturated pixels spill along their columns, in place.

    The charge above the full well of a run of saturated pixels goes in equal
    parts up and down its column and fills the pixels it meets.

    Parameters
    ----------
    electrons : `numpy.ndarray`, ``(ny, nx)``
        Collected electrons, changed in place: at most ``full_well`` after.
    full_well : `float`
        Electrons a pixel can hold.

    Returns
    -------
    saturated : `numpy.ndarray`, ``(ny, nx)``, bool
        Pixels that are full.
    """
    for x in np.flatnonzero((electrons > full_well).any(axis=0)):
        column = electrons[:, x]
        for run in ndimage.find_objects(ndimage.label(column > full_well)[0]):
            start, stop = run[0].start, run[0].stop
            excess = float(np.sum(np.clip(column[start:stop] - full_well, 0, None)))
            column[start:stop] = full_well
            _fill(column[stop:], excess / 2, full_well)
            _fill(column[:start][::-1], excess / 2, full_well)
    return electrons >= full_well


def _fill(pixels: np.ndarray, charge: float, full_well: float) -> None:
    """Pour charge into pixels in order, in place; what reaches the rim is lost."""
    room = np.clip(full_well - pixels, 0.0, None)
    poured = np.clip(charge - (np.cumsum(room) - room), 0.0, room)
    pixels += poured


def _hit(electrons: np.ndarray, rng: np.random.Generator, config: DetectorConfig) -> np.ndarray:
    """Add cosmic rays, in place, and return where they are."""
    ny, nx = electrons.shape
    hit = np.zeros(electrons.shape, dtype=bool)
    for _ in range(rng.poisson(config.cosmic_rays * nx * ny / (4000 * 4072)) if config.cosmic_rays else 0):
        length, angle = rng.exponential(8.0) + 1.0, rng.uniform(0, np.pi)
        steps = np.arange(0.0, length, 0.5)
        x = np.round(rng.uniform(0, nx) + steps * np.cos(angle)).astype(int)
        y = np.round(rng.uniform(0, ny) + steps * np.sin(angle)).astype(int)
        inside = (x >= 0) & (x < nx) & (y >= 0) & (y < ny)
        np.add.at(electrons, (y[inside], x[inside]), rng.gamma(2.0, 700.0))
        hit[y[inside], x[inside]] = True
    return hit


def _break_columns(electrons: np.ndarray, rng: np.random.Generator, config: DetectorConfig) -> np.ndarray:
    """Blank bad columns, in place, and return where they are."""
    ny, nx = electrons.shape
    bad = np.zeros(electrons.shape, dtype=bool)
    count = max(1, round(config.bad_columns * nx / 800)) if config.bad_columns else 0
    for x in rng.choice(np.arange(nx // 10, nx - nx // 10), count, replace=False):
        bad[int(rng.uniform(0, 0.5) * ny) :, x : x + int(rng.integers(1, 3))] = True
    electrons[bad] = 0.0
    return bad
