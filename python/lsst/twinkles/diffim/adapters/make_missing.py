"""Make what a plain file lacks from what it has: mask, variance, WCS. (The PSF: `star_psf`.)

Every function also returns a sentence that says what was made and from what.
"""

from __future__ import annotations

__all__ = ("compare_variance", "make_mask_planes", "make_variance", "make_wcs")

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from ..algorithms.read.flaws import find_blank_border, find_odd_rim, find_pile_up, find_saturated
from ..algorithms.read.sky import SkyModel, estimate_source_poisson, fine_variance, scatter_over_variance
from .header_values import (
    GAIN_KEYS,
    READ_NOISE_KEYS,
    SATURATION_KEYS,
    find_keyword,
    find_pixel_scale,
)

# A ceiling: this many pixels, and this many times more of them than just below it.
_PILE_UP_COUNT = 5
_PILE_UP_CONTRAST = 10.0
# Charge of a saturated star spoils its neighbours.
_SATURATION_GROWTH = 2
# Registration programs interpolate with kernels that reach two or three pixels.
_BLANK_GROWTH = 2
# Rows and columns of the rim, at most so many, whose median is so many sigma of a pixel off.
_RIM_DEPTH = 4
_RIM_SIGMA = 2.0
# The header's noise has to agree with the pixels' within these factors to be believed.
_BELIEVABLE = (0.6, 1.6)
# Scatter about neighbours below this part of that within cells tells of a field without blank sky, or of
# smoothed noise; sources spread the brighter half of the pixels so many times as far as the darker one.
_CROWDED = 0.3
_SKEWED = 1.5
# A sky of this many of its own standard deviations has not been subtracted.
_SKY_PRESENT = 5.0
_DEFAULT_SCALE_ARCSEC = 0.2


def make_mask_planes(
    image: np.ndarray, header: fits.Header, *, saturation: float | None = None
) -> tuple[dict[str, np.ndarray], str]:
    """Mark the pixels of a bare image that cannot be used.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels, those without data not finite.
    header : `astropy.io.fits.Header`
        Searched for the saturation level.
    saturation : `float`, optional
        Saturation level in pixel units; overrides the header.

    Returns
    -------
    planes : `dict` [`str`, `numpy.ndarray`]
        ``NO_DATA`` (not finite, a border filled with one value, or a rim of another level) and
        ``SATURATED``, ``(Ny, Nx)``, bool.
    note : `str`
        What was found by which rule.
    """
    blank = find_blank_border(image, grow=_BLANK_GROWTH)
    odd = find_odd_rim(image, blank, depth=_RIM_DEPTH, n_sigma=_RIM_SIGMA) & ~blank
    origin = "as asked for"
    if saturation is None:
        saturation, origin = find_keyword(header, SATURATION_KEYS), "from the header"
    pile = find_pile_up(image, n_min=_PILE_UP_COUNT, contrast=_PILE_UP_CONTRAST)
    if pile is not None and (saturation is None or (origin == "from the header" and pile < saturation)):
        saturation, origin = pile, "where the brightest pixels pile up"
    # Detectors leave the straight line a little below the level that is quoted.
    level = np.inf if saturation is None else saturation * (0.99 if saturation > 0 else 1.0)
    saturated = find_saturated(image, level, grow=_SATURATION_GROWTH)
    no_data = ~np.isfinite(image) & ~(image == np.inf) | blank | odd
    note = (
        f"mask made from the pixels: {np.count_nonzero(~np.isfinite(image))} not finite, "
        f"{np.count_nonzero(blank)} of a blank border, {np.count_nonzero(odd)} of an odd rim, "
        f"{np.count_nonzero(saturated)} saturated "
    )
    note += "(no saturation level known)" if saturation is None else f"(level {saturation:.6g} {origin})"
    return {"NO_DATA": no_data, "SATURATED": saturated}, note


def make_variance(
    image: np.ndarray,
    sky: SkyModel,
    header: fits.Header,
    unit: u.UnitBase,
    *,
    gain: float | None = None,
    read_noise: float | None = None,
) -> tuple[np.ndarray, str]:
    """Make a variance plane for a bare image.

    The scatter of the sky pixels tells its floor; gain and read noise are used for the sky only where they
    agree with it (they do not if the sky was subtracted, the image scaled, stacked or resampled). The light
    of the sources adds its photon noise, if a gain is known or follows from the sky.

    Parameters
    ----------
    image : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels.
    sky : `SkyModel`
        Sky level and pixel scatter.
    header : `astropy.io.fits.Header`
        Searched for gain, read noise and exposure time.
    unit : `astropy.units.UnitBase`
        Pixel unit.
    gain, read_noise : `float`, optional
        Electrons per pixel unit, and electrons; override the header.

    Returns
    -------
    variance : `numpy.ndarray`, ``(Ny, Nx)``, float32
        Positive everywhere, in squared pixel units.
    note : `str`
        From what it was made.
    """
    gain = _effective_gain(header, unit) if gain is None else gain
    if read_noise is None:
        read_noise = find_keyword(header, READ_NOISE_KEYS, positive=False) or 0.0
    note = "variance made from the pixel scatter"
    fine, dark = fine_variance(image)
    if 0 < fine < _CROWDED * np.median(sky.sigma) ** 2 and _is_skewed(image, sky):
        # The same everywhere: what cells have for sky and scatter is the light of unresolved stars.
        sky = SkyModel(level=np.full_like(image, dark), sigma=np.full_like(image, np.sqrt(fine)))
        note += " about neighbours (of which that of whole cells is many times: a field full of sources)"
    scatter = np.maximum(sky.sigma.astype(float) ** 2, _tiny(sky))
    background = scatter
    if gain is not None:
        predicted = np.maximum(sky.level, 0.0) / gain + (read_noise / gain) ** 2
        ratio = float(np.median(predicted / scatter))
        if _BELIEVABLE[0] < ratio < _BELIEVABLE[1]:
            background = predicted
            note = f"variance made from the gain {gain:.4g} and the read noise {read_noise:.4g} e"
        else:
            note += (
                f": the gain {gain:.4g} and the read noise {read_noise:.4g} e explain {ratio:.2g} of that of "
                f"the sky (sky subtracted, image stacked or resampled, or a wrong gain), so that it is used "
                "for the light of the sources only"
            )
            if (fitting := _gain_of_sky(sky, scatter)) is not None:
                note += f"; a gain of {fitting:.3g} would explain all of it"
    elif (gain := _gain_of_sky(sky, scatter)) is not None:
        note += f", and for the sources from the gain {gain:.4g} e that follows from sky over scatter"
    else:
        note += " alone: no gain is known, so that bright sources are given too small an error"
    if gain is not None:
        background = background + estimate_source_poisson(image, sky, gain=gain)
    return np.maximum(background, _tiny(sky)).astype(np.float32), note


def compare_variance(image: np.ndarray, variance: np.ndarray, bad: np.ndarray) -> str | None:
    """Tell whether a variance plane fits the scatter of the pixels.

    Parameters
    ----------
    image, variance : `numpy.ndarray`, ``(Ny, Nx)``
        Pixels and the variances that came with them.
    bad : `numpy.ndarray`, ``(Ny, Nx)``, bool
        Pixels to leave out.

    Returns
    -------
    note : `str` or `None`
        A sentence that names what is wrong; `None` if they fit, or too few pixels tell.
    """
    ratio = scatter_over_variance(image, variance, bad)
    if not np.isfinite(ratio) or _BELIEVABLE[0] < ratio < _BELIEVABLE[1]:
        return None
    return (
        f"the pixels scatter with {ratio:.2g} times the variance of the variance plane: it was made with a "
        f"wrong gain ({ratio:.2g} times the right one, if the noise is that of photons), or the image was "
        "scaled, stacked or smoothed afterwards"
    )


def make_wcs(shape: tuple[int, int], header: fits.Header) -> tuple[WCS, str]:
    """Make a stand-in WCS: a tangent plane of the right pixel scale, north up, at RA = Dec = 0.

    Parameters
    ----------
    shape : `tuple` [`int`, `int`]
        Ny, Nx.
    header : `astropy.io.fits.Header`
        Searched for the pixel scale.

    Returns
    -------
    wcs : `astropy.wcs.WCS`
        WCS the sky positions of which mean nothing.
    note : `str`
        A sentence that says so.
    """
    scale = find_pixel_scale(header)
    known = scale is not None
    scale = _DEFAULT_SCALE_ARCSEC if scale is None else scale
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    wcs.wcs.crval = [0.0, 0.0]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    note = (
        f"no WCS in the header: a stand-in at RA = Dec = 0 with {scale:.3g} arcsec a pixel "
        f"({'from the header' if known else 'a guess'}); sky positions mean nothing"
    )
    return wcs, note


def _effective_gain(header: fits.Header, unit: u.UnitBase) -> float | None:
    """Return electrons per pixel unit, `None` if header and unit do not tell."""
    exposure = find_keyword(header, ("EXPTIME", "EXPOSURE")) or 1.0
    if unit == u.electron:
        return 1.0
    if unit == u.electron / u.s:
        return exposure
    gain = find_keyword(header, GAIN_KEYS)
    if gain is None or unit not in (u.adu, u.adu / u.s):
        return None
    return gain if unit == u.adu else gain * exposure


def _is_skewed(image: np.ndarray, sky: SkyModel) -> bool:
    """Tell whether pixels spread farther to the bright side than to the dark one."""
    values = image - sky.level
    low, middle, high = np.percentile(values[np.isfinite(values)], (16.0, 50.0, 84.0))
    return bool(high - middle > _SKEWED * (middle - low))


def _gain_of_sky(sky: SkyModel, scatter: np.ndarray) -> float | None:
    """Return the gain for which the sky's photons explain the scatter, if the sky is still there."""
    if np.median(sky.level) < _SKY_PRESENT * np.sqrt(np.median(scatter)):
        return None
    return float(np.median(sky.level / scatter))


def _tiny(sky: SkyModel) -> float:
    """Return a variance that is positive but small, for images without any noise."""
    typical = float(np.median(sky.sigma)) ** 2
    return 1e-3 * typical if typical > 0 else 1e-6 * max(float(np.abs(sky.level).max()), 1.0)
