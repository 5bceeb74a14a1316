"""What an exposure must have before it can be subtracted."""

from __future__ import annotations

__all__ = (
    "PixelFlaws",
    "covered_fraction",
    "mask_flaws",
    "require_good_pixels",
    "require_psf",
    "same_pixels",
)

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..adapters.masks import bad_pixels
from ..algorithms.robust import robust_scatter
from .errors import UnusableExposureError

if TYPE_CHECKING:
    from lsst.images import Mask, VisitImage

_UNUSABLE_PLANES = ("NO_DATA", "BAD", "SAT")
_PLANE_TEXT = {
    "NO_DATA": "No data was available for this pixel.",
    "BAD": "Bad pixel in the instrument, including bad amplifiers.",
}
# A pixel so many standard deviations of the sky from zero holds no light but a number that stands for
# something else; in a Fourier transform in single precision it would drown all others.
_MAX_SIGNAL = 1e6
_MAX_NOISE_RATIO = 1e4  # of pixels and variance plane; crowded fields and steep skies stay far below
_N_SAMPLE = 100_000


@dataclass(frozen=True)
class PixelFlaws:
    """Numbers of unusable pixels that no mask plane told of."""

    n_not_finite: int
    """Pixels that are NaN or infinite (`int`)."""

    n_bad_variance: int
    """Other pixels whose variance is zero, negative or not finite (`int`)."""

    n_no_light: int = 0
    """Other pixels of a size that no light has (`int`)."""

    def __bool__(self) -> bool:
        return bool(self.n_not_finite or self.n_bad_variance or self.n_no_light)

    def __str__(self) -> str:
        parts = []
        if self.n_not_finite:
            parts.append(f"{self.n_not_finite} unmasked pixels that are NaN or infinite")
        if self.n_no_light:
            parts.append(f"{self.n_no_light} unmasked pixels beyond {_MAX_SIGNAL:.0e} times the noise")
        if self.n_bad_variance:
            parts.append(f"{self.n_bad_variance} unmasked pixels whose variance is not positive and finite")
        return " and ".join(parts) or "no flaws"


def require_psf(exposure: VisitImage, role: str) -> None:
    """Refuse an exposure without a PSF.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure.
    role : `str`
        ``"science"`` or ``"template"``, for the message.

    Raises
    ------
    UnusableExposureError
        If it has no PSF, or one that could not be read.
    """
    from lsst.images.serialization import ArchiveReadError

    try:
        psf = exposure.psf
    except ArchiveReadError as error:
        raise UnusableExposureError(
            f"The PSF of the {role} exposure cannot be read: {error}", role=role
        ) from error
    if psf is None:
        raise UnusableExposureError(
            f"The {role} exposure has no PSF; ingest it again (ingestExposures.py measures one from "
            "the stars) or attach one: exposure.psf = ...",
            role=role,
        )


def same_pixels(first: VisitImage, second: VisitImage) -> bool:
    """Tell whether two exposures hold the same image, pixel for pixel."""
    a, b = first.image.array, second.image.array
    return first is second or (a.shape == b.shape and np.array_equal(a, b, equal_nan=True))


def mask_flaws(exposure: VisitImage) -> tuple[VisitImage, PixelFlaws]:
    """Mask pixels that cannot be used and are not masked yet.

    Parameters
    ----------
    exposure : `lsst.images.VisitImage`
        Exposure; not modified.

    Returns
    -------
    masked : `lsst.images.VisitImage`
        A copy in which pixels that are not finite, or beyond 1e6 times the
        noise of the sky, are NaN and ``NO_DATA``, and pixels without a
        positive, finite variance are ``BAD``, with the variance NaN; the exposure itself if there are none.
    flaws : `PixelFlaws`
        How many there were.
    """
    image, variance = exposure.image.array, exposure.variance.array
    not_finite = ~np.isfinite(image)
    no_light = _find_no_light(image, variance) & ~not_finite
    no_data = not_finite | no_light
    with np.errstate(invalid="ignore"):
        bad_variance = ~((variance > 0) & np.isfinite(variance)) & ~no_data
    if not no_data.any() and not bad_variance.any():
        return exposure, PixelFlaws(0, 0)
    known = bad_pixels(exposure.mask, ["NO_DATA", "BAD"])
    flaws = PixelFlaws(*(int(np.count_nonzero(a & ~known)) for a in (not_finite, bad_variance, no_light)))
    if not flaws and not no_light.any():
        return exposure, flaws
    masked = exposure.copy()
    mask = masked.mask
    for plane, pixels in (("NO_DATA", no_data), ("BAD", bad_variance)):
        mask = _with_plane(mask, plane)
        mask.set(plane, pixels)
    masked.mask = mask
    masked.image.array[no_data] = np.nan
    masked.variance.array[no_data | bad_variance] = np.nan
    return masked, flaws


def _find_no_light(image: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Find finite pixels of a size that no light has, ``(Ny, Nx)``, bool."""
    # The larger of what the variance plane claims and what the pixels show: either may be wrong.
    limit = min(_MAX_SIGNAL * max(_measure_noise(image, variance)), float(np.finfo(np.float32).max))
    return np.abs(image) > limit if limit > 0 else np.zeros(image.shape, dtype=bool)


def _measure_noise(image: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Return what the variance plane claims and what the pixels show of the noise; 0 where nothing does."""
    step = max(1, image.size // _N_SAMPLE)
    pixels, claimed = (a.ravel()[::step].astype(float) for a in (image, variance))
    pixels, claimed = pixels[np.isfinite(pixels)], claimed[np.isfinite(claimed) & (claimed > 0)]
    return float(np.sqrt(np.median(claimed))) if len(claimed) else 0.0, np.nan_to_num(robust_scatter(pixels))


def require_good_pixels(exposure: VisitImage, role: str) -> None:
    """Refuse an exposure none of whose pixels can be used, or whose variance has nothing to do with them.

    Raises
    ------
    UnusableExposureError
        If all pixels are ``NO_DATA``, ``BAD`` or saturated, or scatter by more than
        1e4 times what the variance plane claims.
    """
    if bad_pixels(exposure.mask, _UNUSABLE_PLANES).all():
        raise UnusableExposureError(
            f"All {exposure.bbox.area} pixels of the {role} exposure are masked as "
            f"{', '.join(_UNUSABLE_PLANES)}; nothing is left to subtract. Look at its mask.",
            role=role,
        )
    claimed, scatter = _measure_noise(exposure.image.array, exposure.variance.array)
    if scatter > _MAX_NOISE_RATIO * claimed:
        raise UnusableExposureError(
            f"The pixels of the {role} exposure scatter by {scatter:.3g}, its variance plane claims "
            f"{claimed:.3g}: one of the two is in another unit or damaged. Mend it.",
            role=role,
        )


def covered_fraction(template: VisitImage) -> float:
    """Return the fraction of the pixels for which a template has data (`float`)."""
    return 1.0 - float(np.mean(bad_pixels(template.mask, ["NO_DATA"])))


def _with_plane(mask: Mask, plane: str) -> Mask:
    return mask if plane in mask.schema.names else mask.add_plane(plane, _PLANE_TEXT[plane])
