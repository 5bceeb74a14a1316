"""What a FITS header of unknown origin says: gain, zero point, unit, filter, time."""

from __future__ import annotations

__all__ = (
    "find_band",
    "find_exposure_facts",
    "find_keyword",
    "find_pixel_scale",
    "find_unit",
    "find_zero_point",
    "nanojansky_per_unit",
)

import re
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.time import Time

GAIN_KEYS = ("GAIN", "EGAIN", "CCDGAIN", "GAINEFF", "GAINA", "HIERARCH ESO DET OUT1 CONAD")
READ_NOISE_KEYS = ("RDNOISE", "READNOI", "RON", "ENOISE", "READNOISE", "RDNOISEA")
SATURATION_KEYS = ("SATURATE", "SATURAT", "SATLEVEL", "SATUR", "SATURATA", "MAXLIN")
ZERO_POINT_KEYS = (
    "ZP",
    "MAGZP",
    "MAGZPT",
    "MAGZERO",
    "PHOTZP",
    "ZEROPNT",
    "ZPT",
    "ZEROPT",
    "MAG0",
    "ABMAGZP",
)
FILTER_KEYS = ("BAND", "FILTER", "FILTER1", "FILTERID", "FILTNAM", "FILTER2")
VISIT_KEYS = ("VISIT", "VISITID", "OBSHISTI", "EXPNUM", "EXPID")

# Spellings that astropy does not know.
_UNITS = {
    "e-": u.electron, "e": u.electron, "el": u.electron, "elec": u.electron, "electrons": u.electron,
    "dn": u.adu, "adus": u.adu, "counts": u.adu, "count": u.adu, "ct": u.adu, "analog-to-digital unit": u.adu,
    "e-/s": u.electron / u.s, "electrons/s": u.electron / u.s, "adu/sec": u.adu / u.s,
    "counts/s": u.adu / u.s,
    "nanomaggy": 3631 * u.nJy, "nanomaggies": 3631 * u.nJy,
}  # fmt: skip
_AB_ZERO_NANOJANSKY = 3631e9


def find_keyword(header: fits.Header, keys: tuple[str, ...], *, positive: bool = True) -> float | None:
    """Return the first keyword that holds a usable number.

    Parameters
    ----------
    header : `astropy.io.fits.Header`
        Header.
    keys : `tuple` [`str`]
        Keywords in order of preference.
    positive : `bool`, optional
        Whether only numbers above zero will do.
    """
    for key in keys:
        try:
            value = float(header[key])
        except (KeyError, TypeError, ValueError):
            continue
        if np.isfinite(value) and (value > 0 or not positive):
            return value
    return None


def find_unit(header: fits.Header) -> tuple[u.UnitBase, str | None]:
    """Return the pixel unit and, where it had to be guessed, a sentence that says so."""
    text = str(header.get("BUNIT", "")).strip()
    if text.lower() in _UNITS:
        return u.Unit(_UNITS[text.lower()]), None
    if text:
        for spelling in (text, text.lower()):
            unit = u.Unit(spelling, parse_strict="silent")
            if not isinstance(unit, u.UnrecognizedUnit):
                return (u.adu if unit == u.ct else unit), None
    guess, why = u.adu, "there is no BUNIT" if not text else f"BUNIT is {text!r}, which is no unit"
    if header.get("GAIN") == 1:
        guess, why = u.electron, why + " and GAIN is 1"
    return guess, f"pixel unit taken as {guess}: {why}"


def find_zero_point(header: fits.Header) -> float | None:
    """Return the AB magnitude of one pixel unit, `None` if the header has none."""
    value = find_keyword(header, ZERO_POINT_KEYS)
    if value is None:
        flux_of_zero = find_keyword(header, ("FLUXMAG0",))
        value = None if flux_of_zero is None else 2.5 * np.log10(flux_of_zero)
    # A zero point outside this range is in another system, or a placeholder.
    return value if value is not None and 5 < value < 50 else None


def nanojansky_per_unit(zero_point: float) -> float:
    """Return the flux in nJy of one pixel unit, given its AB magnitude (Oke & Gunn 1983)."""
    return _AB_ZERO_NANOJANSKY * 10 ** (-0.4 * zero_point)


def find_band(header: fits.Header) -> tuple[str, str]:
    """Return the band (``r``, or the lower-case first word of the filter) and the full name of the filter."""
    names = [str(header[key]).strip() for key in FILTER_KEYS if str(header.get(key, "")).strip()]
    if not names:
        return "unknown", "unknown"
    for name in names:
        if match := re.search(r"(?:^|[\s_\-:'\"(])([ugrizyY])(?:$|[\s_\-:'\"\d)]|band)", name):
            return match[1].lower(), names[-1]
    return re.split(r"\W", names[0].lower())[0] or "unknown", names[-1]


def find_pixel_scale(header: fits.Header) -> float | None:
    """Return arcseconds per pixel as the header of a frame without WCS gives it, `None` if it does not."""
    scale = find_keyword(header, ("PIXSCALE", "SECPIX", "SECPIX1", "PIXSCAL1", "SCALE"))
    micron, millimetre = find_keyword(header, ("XPIXSZ",)), find_keyword(header, ("FOCALLEN",))
    if scale is None and micron is not None and millimetre is not None:
        scale = float(np.degrees(micron * 1e-3 / millimetre) * 3600)
    return scale


def find_exposure_facts(header: fits.Header) -> dict[str, Any]:
    """Return the arguments of an `~astro_metadata_translator.ObservationInfo` that the header gives."""
    facts: dict[str, Any] = {}
    exposure = find_keyword(header, ("EXPTIME", "EXPOSURE", "ITIME"))
    if exposure is not None:
        facts["exposure_time"] = exposure * u.s
    if str(header.get("OBJECT", "")).strip():
        facts["object"] = str(header["OBJECT"]).strip()
    begin = _find_time(header)
    if begin is not None:
        facts["datetime_begin"] = begin
        if exposure is not None:
            facts["datetime_end"] = begin + exposure * u.s
    return facts


def _find_time(header: fits.Header) -> Time | None:
    """Return the start of the exposure."""
    mjd, text = find_keyword(header, ("MJD-OBS", "MJD")), str(header.get("DATE-OBS", ""))
    try:
        if "T" in text:
            return Time(text, scale="utc").tai
        return None if mjd is None else Time(mjd, format="mjd", scale="utc").tai
    except ValueError:
        return None
