"""Pixels that do not belong into a coadd: what is there in one or a few images and not in the others."""

from __future__ import annotations

__all__ = ("OutlierSettings", "find_outliers")

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.ndimage

from ..convolve import convolve_varying, make_tile_grid
from ..fourier import half_plane_weights, measure_extent, stamps_from_transforms
from .filters import CoaddFilters
from .inputs import CoaddInput, cut_rows, strips

# How far beyond its core an outlier is followed, in units of the noise.
_LOW = 1.5
# Brightness nearby counts within so many pixels: registration and PSF models are off there.
_NEAR = 2
_MATCHING_TOLERANCE = 1e-3


@dataclass(frozen=True)
class OutlierSettings:
    """Tunables of `find_outliers`; see the task's configuration for their meaning."""

    threshold: float
    pixel_threshold: float
    brightness_error: float
    max_fraction: float
    grow: int


def find_outliers(
    inputs: Sequence[CoaddInput], settings: OutlierSettings, *, side: int, rows: int, workers: int
) -> list[np.ndarray]:
    """Find transients, cosmic rays, satellites and the like by comparing images of one sky.

    Parameters
    ----------
    inputs : sequence of `CoaddInput`
        At least three images, without holes.
    settings : `OutlierSettings`
        Thresholds.
    side, rows, workers : `int`
        Side of the Fourier tiles, rows worked on at a time, threads.

    Returns
    -------
    outliers : `list` [`numpy.ndarray`], each ``(Ny, Nx)`` bool
        Pixels that do not belong into the coadd, one a image.

    Notes
    -----
    Matched to one PSF (`CoaddFilters.matching`) each image is compared with the median of all, which is
    a matched filter for whatever the telescope has seen, and, as they are, pixel by pixel for what is
    sharper than the PSF. Noise and a fraction of the brightness nearby are allowed for. What is found
    in many images is no outlier but varies, or is a star that does not subtract: it stays. This is the idea
    of the stack's CompareWarp assembly.
    """
    if len(inputs) < 3:
        raise ValueError(f"Outliers need three images to compare, got {len(inputs)}.")
    ny, nx = inputs[0].image.shape
    filters = CoaddFilters(inputs, "matched")
    halo = _extent(filters, (ny, nx))
    outliers = [np.zeros((ny, nx), dtype=bool) for _ in inputs]
    # What grows out of a neighbouring strip has to be found here too.
    margin = 4 * (settings.grow + _NEAR) + 16
    for part in strips(ny, rows=rows):
        around = slice(max(0, part.start - halo - margin), min(ny, part.stop + halo + margin))
        found = _find_in_part(cut_rows(inputs, around), settings, halo=halo, side=side, workers=workers)
        here = slice(part.start - around.start, part.stop - around.start)
        for plane, mask in zip(outliers, found, strict=True):
            plane[part] = mask[here]
    return outliers


def _find_in_part(
    inputs: Sequence[CoaddInput], settings: OutlierSettings, *, halo: int, side: int, workers: int
) -> list[np.ndarray]:
    bad = np.stack([item.bad for item in inputs])
    seeds, reach = _compare_matched(inputs, bad, settings, halo=halo, side=side, workers=workers)
    sharp = _compare_pixels(inputs, bad, settings)
    found = []
    for seed, wide, spikes in zip(seeds, reach, sharp, strict=True):
        core = scipy.ndimage.binary_propagation(seed & wide, mask=wide)
        found.append(_grow(core | spikes, settings.grow))
    several = np.sum(found, axis=0)
    limit = max(1, int(np.floor(settings.max_fraction * len(inputs))))
    return [mask & (several <= limit) for mask in found]


def _compare_matched(
    inputs: Sequence[CoaddInput],
    bad: np.ndarray,
    settings: OutlierSettings,
    *,
    halo: int,
    side: int,
    workers: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return, ``(N, Ny, Nx)`` bool, where images of one PSF differ, and where they may be part of that."""
    shape = inputs[0].image.shape
    filters = CoaddFilters(inputs, "matched")
    grid = make_tile_grid(shape, halo=halo, side=side)
    matched = np.empty((len(inputs), *shape), dtype=np.float32)
    for number, item in enumerate(inputs):
        matched[number] = convolve_varying(
            [item.image],
            lambda x, y, number=number: [filters.matching(number, x, y, grid.side)],  # type: ignore[misc]
            grid,
            workers=workers,
        )
    power = _noise_power(filters, shape)
    middle = _median(matched, bad)
    allowed = settings.brightness_error * _brightness(middle)
    seeds, reach = np.empty_like(bad), np.empty_like(bad)
    for number, item in enumerate(inputs):
        noise = np.sqrt(item.sky.image(shape) * np.float32(power[number]) + allowed**2)
        score = np.abs(matched[number] - middle) / noise
        seeds[number] = (score > settings.threshold) & ~bad[number]
        reach[number] = score > _LOW
    return seeds, reach


def _compare_pixels(inputs: Sequence[CoaddInput], bad: np.ndarray, settings: OutlierSettings) -> np.ndarray:
    """Return, ``(N, Ny, Nx)`` bool, where an image has a pixel that PSFs cannot explain."""
    shape = inputs[0].image.shape
    images = np.stack([item.image for item in inputs])
    middle = _median(images, bad)
    # PSFs differ, so that all of the light nearby may be missing or be there twice.
    allowed = _brightness(middle)
    found = np.empty_like(bad)
    for number, item in enumerate(inputs):
        limit = settings.pixel_threshold * np.sqrt(item.sky.image(shape)) + allowed
        found[number] = (np.abs(images[number] - middle) > limit) & ~bad[number]
    return found


def _median(images: np.ndarray, bad: np.ndarray) -> np.ndarray:
    """Return the median of good pixels; of all where none is good (they are filled)."""
    middle = np.median(images, axis=0)
    rows, cols = np.nonzero(bad.any(axis=0) & ~bad.all(axis=0))
    if len(rows):
        values = np.where(bad[:, rows, cols], np.nan, images[:, rows, cols])
        middle[rows, cols] = np.nanmedian(values, axis=0)
    return middle


def _brightness(image: np.ndarray) -> np.ndarray:
    """Return the largest value nearby, not less than zero."""
    return np.maximum(scipy.ndimage.maximum_filter(image, size=2 * _NEAR + 1, mode="nearest"), 0.0)


def _noise_power(filters: CoaddFilters, shape: tuple[int, int]) -> np.ndarray:
    """Return what the matching filters make of the variance of white noise, at the centre, ``(N,)``."""
    side = 128
    weight = half_plane_weights(side)
    spectra = _matching_at_centre(filters, shape, side)
    return np.array([float((np.abs(f[0]) ** 2 * weight).sum()) / side**2 for f in spectra])


def _matching_at_centre(filters: CoaddFilters, shape: tuple[int, int], side: int) -> list[np.ndarray]:
    x, y = np.array([(shape[1] - 1) / 2]), np.array([(shape[0] - 1) / 2])
    return [filters.matching(number, x, y, side) for number in range(len(filters.inputs))]


def _extent(filters: CoaddFilters, shape: tuple[int, int]) -> int:
    """Return the half side that holds the matching filters well enough to compare images."""
    side = 256
    transforms = _matching_at_centre(filters, shape, side)
    energy = sum(stamps_from_transforms(f, side, side - 1)[0] ** 2 for f in transforms)
    return measure_extent(np.asarray(energy), _MATCHING_TOLERANCE)


def _grow(mask: np.ndarray, radius: int) -> np.ndarray:
    if not radius or not mask.any():
        return mask
    return np.asarray(scipy.ndimage.binary_dilation(mask, iterations=radius))
