"""Simulated exposures and catalogues as afw objects (of the stack or of ``fake_afw``), with the truth.

The scenes are like those of ip_diffim's own tests: Gaussian stars of a few hundred counts in white noise.
"""

import numpy as np
import stack_here as afw
from small_exposures import make_wcs
from small_pairs import draw, scatter

X0, Y0 = 12345, 67890
_SKY = 200.0  # counts whose photon noise is the noise of blank sky
_FLAGS = (
    "sky_source",
    "base_PixelFlags_flag_edge",
    "base_PixelFlags_flag_nodata",
    "base_PixelFlags_flag_saturated",
    "base_PsfFlux_flag",
    "detect_isPrimary",
)


def make_sources(x, y, flux):
    """Make a catalogue of isolated stars with the columns that a selection looks at."""
    schema = afw.SourceTable.makeMinimalSchema()
    for name in ("truth_instFlux", "truth_instFluxErr", "truth_x", "truth_y"):
        schema.addField(name, "D")
    for name in _FLAGS:
        schema.addField(name, "Flag")
    schema.addField("base_ClassificationSizeExtendedness_value", "D")
    schema.addField("deblend_nChild", "I")
    for slot, target in (("Centroid", "truth"), ("PsfFlux", "truth"), ("CalibFlux", "truth")):
        schema.getAliasMap().set(f"slot_{slot}", target)
    schema.getAliasMap().set("base_PsfFlux_instFlux", "truth_instFlux")
    schema.getAliasMap().set("base_PsfFlux_instFluxErr", "truth_instFluxErr")
    catalog = afw.SourceCatalog(schema)
    for a, b, f in zip(x, y, flux, strict=True):
        record = catalog.addNew()
        record["truth_x"], record["truth_y"], record["truth_instFlux"] = a, b, f
        record["truth_instFluxErr"], record["detect_isPrimary"] = 20.0, True
        record["base_ClassificationSizeExtendedness_value"] = 0.0
        box = afw.Box2I(afw.Point2I(round(a) - 6, round(b) - 6), afw.Extent2I(13, 13))
        footprint = afw.Footprint(afw.SpanSet(box))
        footprint.addPeak(a, b, f)
        record.setFootprint(footprint)
    return catalog


def make_scene(
    *,
    sigma,
    seed=5,
    n_stars=20,
    noise=1.0,
    noise_seed=6,
    flux=500.0,
    flux_range=2.0,
    size=256,
    border=0,
    band="g",
    background=None,
    scale=1.0,
    planes=("STREAK", "INJECTED", "HIGH_VARIANCE"),
):
    """Make an exposure and the catalogue of its stars; ``border`` pads the frame, not the field."""
    rng, noise_rng = np.random.default_rng(seed), np.random.default_rng(noise_seed)
    x, y = scatter(rng, (size, size), n_stars, 16, 18).T + np.array([[X0], [Y0]])
    fluxes = flux * (1.0 + rng.random(n_stars) * (flux_range - 1.0))
    corner = afw.Point2I(X0 - border, Y0 - border)
    box = afw.Box2I(corner, afw.Extent2I(size + 2 * border, size + 2 * border))
    shape = (box.getHeight(), box.getWidth())
    model = draw(shape, zip(x - corner.x, y - corner.y, fluxes, strict=True), sigma)
    for plane in planes:
        afw.Mask.addMaskPlane(plane)
    exposure = afw.ExposureF(box)
    variance = noise**2 * (1.0 + model / _SKY)
    exposure.image.array = scale * (model + np.sqrt(variance) * noise_rng.normal(size=shape))
    exposure.variance.array = scale**2 * variance
    exposure.mask.array[model > noise] |= exposure.mask.getPlaneBitMask("DETECTED")
    if background is not None:
        yy, xx = np.mgrid[: shape[0], : shape[1]]
        exposure.image.array[...] += background(xx + corner.x, yy + corner.y)
    exposure.setPsf(afw.GaussianPsf(31, 31, sigma))
    exposure.setWcs(afw.make_sky_wcs(make_wcs(crpix=(X0 + 100.0, Y0 + 100.0))))
    exposure.setFilter(afw.FilterLabel(band, f"{band} NotACamera"))
    exposure.setPhotoCalib(afw.PhotoCalib(1.0))
    exposure.setVisitInfo(afw.VisitInfo(id=42, instrumentLabel="NotACamera"))
    return exposure, make_sources(x, y, fluxes)


def blank(exposure, planes=("EDGE", "BAD", "NO_DATA", "DETECTED", "DETECTED_NEGATIVE", "SAT", "INTRP", "CR")):
    """Pixels with none of some planes."""
    bits = exposure.mask.getPlaneBitMask([p for p in planes if p in exposure.mask.getMaskPlaneDict()])
    return (exposure.mask.array & bits) == 0


def make_subtract_task(kind, **values):
    """Return a task of subtraction that takes the sources of `make_scene`."""
    config = kind.ConfigClass()
    config.restrictKernelEdgeSources = False
    config.sourceSelector.doFlags = True
    config.sourceSelector.flags.bad = ["base_PsfFlux_flag"]
    config.update(**values)
    return kind(config=config)
