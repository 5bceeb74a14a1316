"""Columns of the DIA source catalogue of the stack: names, types and units.

Descriptions are ours. Columns of quantities that are not measured here are there too, since tasks further on
in a pipeline look for them; they hold NaN and a set flag.
"""

from __future__ import annotations

__all__ = ("FLAG_PLANES", "SLOTS", "add_dia_fields")

from collections.abc import Iterator
from typing import Any

_CENTROID = "base_SdssCentroid"
_DIPOLE = "ip_diffim_DipoleFit"
_HSM = ("ext_shapeHSM_HsmPsfMoments", "ext_shapeHSM_HsmSourceMoments")
_TRAIL = "ext_trailedSources_Naive"
_APERTURE = "base_CircularApertureFlux_12_0"

SLOTS = {
    "Centroid": _CENTROID,
    "PsfFlux": "base_PsfFlux",
    "ApFlux": _APERTURE,
    "Shape": _HSM[1],
    "PsfShape": _HSM[0],
}
"""Slots of the catalogue, and what they lead to."""

FLAG_PLANES = {
    "edge": ("EDGE", "NO_DATA"),
    "nodata": ("NO_DATA",),
    "interpolated": ("INTRP",),
    "saturated": ("SAT",),
    "cr": ("CR",),
    "bad": ("BAD",),
    "suspect": ("SUSPECT",),
    "streak": ("STREAK",),
    "injected": ("INJECTED",),
    "injected_template": ("INJECTED_TEMPLATE",),
    "high_variance": ("HIGH_VARIANCE",),
    "saturated_template": ("SAT_TEMPLATE",),
    "sat_template": ("SAT_TEMPLATE",),  # the same, as later weeklies call it
    "spike": ("SPIKE",),
}
"""Pixel flags, and the mask planes that set them."""

Field = tuple[str, str, str, str]


def add_dia_fields(schema: Any) -> None:
    """Add the columns to a schema, and its slots.

    Parameters
    ----------
    schema : `lsst.afw.table.Schema`
        Minimal schema of sources, or one that other tasks have added fields to; those are left alone.
    """
    for name, kind, unit, doc in _fields():
        if name in schema:
            continue
        if kind == "String":
            schema.addField(name, type=str, size=7, doc=doc)
        elif unit:
            schema.addField(name, type=kind, doc=doc, units=unit)
        else:
            schema.addField(name, type=kind, doc=doc)
    aliases = schema.getAliasMap()
    for slot, target in SLOTS.items():
        aliases.set(f"slot_{slot}", target)


def _fields() -> Iterator[Field]:
    yield "is_negative", "Flag", "", "Detected as negative, and not as positive"
    yield "detect_isPrimary", "Flag", "", "Of use for statistics: no parent of others, no sky source"
    yield from _centroid_fields()
    yield from _dipole_fields()
    for axis in ("ra", "dec"):
        yield f"coord_{axis}Err", "F", "rad", f"Standard error of coord_{axis}"
    yield "coord_ra_dec_Cov", "F", "rad rad", "Covariance of coord_ra and coord_dec"
    yield from _shape_fields()
    yield from _flux_fields(_APERTURE, "flux in a circle of 12 pixels radius", ("apertureTruncated",))
    yield "base_ClassificationSizeExtendedness_value", "D", "", "Chance that it is wider than a point source"
    yield "base_ClassificationSizeExtendedness_flag", "Flag", "", "No extendedness"
    yield from _local_fields()
    yield from _pixel_fields()
    yield from _psf_flux_fields("base_PsfFlux", "PSF flux on the difference")
    yield "base_PsfFlux_chi2", "F", "", "Chi square of the PSF fit"
    yield "base_PsfFlux_npixels", "I", "pixel", "Pixels in the PSF fit"
    yield from _trail_fields()
    yield "base_InvalidPsf_flag", "Flag", "", "No PSF at the position"
    yield from _psf_flux_fields("ip_diffim_forced_PsfFlux", "forced PSF flux on the science image")
    yield from _psf_flux_fields(
        "ip_diffim_forced_template_PsfFlux", "forced PSF flux on the matched template"
    )
    yield "refMatchId", "L", "", "Identifier of the match in a reference catalogue; 0 for none"
    yield "srcMatchId", "L", "", "Identifier of the match among the sources of the science image; 0 for none"
    yield "sky_source", "Flag", "", "Placed on blank sky"
    yield "glint_trail", "Flag", "", "Part of a trail of glints"
    yield "reliability", "F", "", "Score of a later task"
    yield "reliabilityVersion", "String", "", "Version of the model that gave it"
    for sign in ("positive", "negative"):
        yield f"merge_footprint_{sign}", "Flag", "", f"The footprint has {sign} pixels beyond the threshold"


def _centroid_fields() -> Iterator[Field]:
    for axis in "xy":
        yield f"{_CENTROID}_{axis}", "D", "pixel", f"Centroid along {axis}, of the fit of the PSF"
    for axis in "xy":
        yield f"{_CENTROID}_{axis}Err", "F", "pixel", f"Standard error of the centroid along {axis}"
    yield f"{_CENTROID}_flag", "Flag", "", "No centroid; the position is that of the peak"
    for name, text in (
        ("edge", "Not set: centroids near edges are fitted with the pixels that are there"),
        ("noSecondDerivative", "Not set"),
        ("almostNoSecondDerivative", "Not set"),
        ("notAtMaximum", "Not set"),
        ("near_edge", "A part of the stamp lies beyond the edge"),
        ("resetToPeak", "No centroid; the position is that of the peak"),
        ("badError", "An error of the centroid is not finite"),
    ):
        yield f"{_CENTROID}_flag_{name}", "Flag", "", text


def _dipole_fields() -> Iterator[Field]:
    for lobe in ("pos", "neg"):
        yield f"{_DIPOLE}_{lobe}_instFlux", "D", "count", f"Flux of the {lobe} lobe of a dipole"
        yield f"{_DIPOLE}_{lobe}_instFluxErr", "D", "count", f"Standard error of {lobe}_instFlux"
    yield f"{_DIPOLE}_instFlux", "D", "count", "Mean absolute flux of the lobes"
    yield f"{_DIPOLE}_instFluxErr", "D", "count", "Standard error of instFlux"
    for part, text in (("pos_", "positive lobe"), ("neg_", "negative lobe"), ("", "dipole")):
        for axis in "xy":
            yield f"{_DIPOLE}_{part}{axis}", "D", "pixel", f"Position of the {text} along {axis}"
        for axis in "xy":
            yield f"{_DIPOLE}_{part}{axis}Err", "F", "pixel", f"Standard error of {part}{axis}"
    yield f"{_DIPOLE}_orientation", "D", "rad", "Direction from the negative to the positive lobe"
    yield f"{_DIPOLE}_separation", "D", "pixel", "Distance of the lobes"
    yield f"{_DIPOLE}_chi2dof", "D", "", "Chi square of the fit over its degrees of freedom"
    yield f"{_DIPOLE}_nData", "L", "", "Pixels in the fit"
    yield f"{_DIPOLE}_signalToNoise", "D", "", "Signal-to-noise ratio of the fit"
    yield f"{_DIPOLE}_classification", "Flag", "", "It is a dipole"
    yield f"{_DIPOLE}_classificationAttempted", "Flag", "", "A dipole was fitted"
    yield f"{_DIPOLE}_flag", "Flag", "", "No dipole was fitted, or the fit failed"
    yield f"{_DIPOLE}_flag_edge", "Flag", "", "Too near to the edge for a fit"


def _shape_fields() -> Iterator[Field]:
    for name, text in zip(_HSM, ("PSF", "source"), strict=True):
        yield f"{name}_flag", "Flag", "", f"No moments of the {text}"
        for reason in (
            "no_pixels",
            "not_contained",
            "parent_source",
            "galsim",
            "invalid_param",
            "edge",
            "no_psf",
        ):
            yield f"{name}_flag_{reason}", "Flag", "", f"Reason for it: {reason}"
        for axis in "xy":
            yield (
                f"{name}_{axis}",
                "D",
                "pixel",
                f"Centroid of the adaptive moments of the {text} along {axis}",
            )
        for pair in ("xx", "yy", "xy"):
            yield f"{name}_{pair}", "D", "pixel^2", f"Adaptive second moment {pair} of the {text}"


def _flux_fields(name: str, text: str, reasons: tuple[str, ...]) -> Iterator[Field]:
    yield f"{name}_instFlux", "D", "count", text.capitalize().replace("psf", "PSF")
    yield f"{name}_instFluxErr", "D", "count", f"Standard error of {name}_instFlux"
    yield f"{name}_flag", "Flag", "", f"No {text}"
    for reason in reasons:
        yield f"{name}_flag_{reason}", "Flag", "", f"Reason for it: {reason}"


def _psf_flux_fields(name: str, text: str) -> Iterator[Field]:
    yield from _flux_fields(name, text, ("noGoodPixels", "edge"))
    yield f"{name}_area", "F", "pixel", "Effective area of the PSF"


def _local_fields() -> Iterator[Field]:
    yield "base_LocalPhotoCalib", "D", "", "Nanojanskys of one count at the position"
    yield "base_LocalPhotoCalibErr", "D", "", "Standard error of base_LocalPhotoCalib"
    yield "base_LocalPhotoCalib_flag", "Flag", "", "No calibration"
    for row in (1, 2):
        for column in (1, 2):
            name = f"base_LocalWcs_CDMatrix_{row}_{column}"
            yield name, "D", "", "Derivative of tangent-plane coordinates (radians) by pixel coordinates"
    yield "base_LocalWcs_flag", "Flag", "", "No WCS"


def _pixel_fields() -> Iterator[Field]:
    yield "base_PixelFlags_flag", "Flag", "", "The flags could not be found out"
    yield "base_PixelFlags_flag_offimage", "Flag", "", "The centroid lies outside the image"
    for name, planes in FLAG_PLANES.items():
        text = " or ".join(planes)
        yield f"base_PixelFlags_flag_{name}", "Flag", "", f"{text} in the footprint"
        yield f"base_PixelFlags_flag_{name}Center", "Flag", "", f"{text} in the 3 x 3 pixels at the centroid"
        yield f"base_PixelFlags_flag_{name}CenterAll", "Flag", "", f"{text} in all of them"


def _trail_fields() -> Iterator[Field]:
    for name, unit in (
        ("ra", ""), ("dec", ""), ("x0", "pixel"), ("y0", "pixel"), ("x1", "pixel"), ("y1", "pixel"),
        ("flux", "count"), ("length", "pixel"), ("angle", ""), ("x0Err", "pixel"), ("y0Err", "pixel"),
        ("x1Err", "pixel"), ("y1Err", "pixel"), ("fluxErr", "count"), ("lengthErr", "pixel"),
        ("angleErr", ""),
    ):  # fmt: skip
        yield f"{_TRAIL}_{name}", "D", unit, f"Trail: {name}"
    yield f"{_TRAIL}_flag", "Flag", "", "No trail was fitted"
    for reason in (
        "noFlux",
        "noConverge",
        "noSigma",
        "edge",
        "off_image",
        "nan",
        "suspect_long_trail",
        "shape",
    ):
        yield f"{_TRAIL}_flag_{reason}", "Flag", "", f"Reason for it: {reason}"
