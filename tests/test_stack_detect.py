"""Our detection and measurement in the place of ip_diffim's.

The claims are those of ip_diffim's ``test_detectAndMeasure.py``, on scenes made here; afw is `stack_here`.
What is left to the stack's own tasks (cosmic rays, streaks, glints, satellites) is not tested here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import stack_here as afw
from lsst.pipe.base import (
    AlgorithmError,
    AnnotatedPartialOutputsError,
    InvalidQuantumError,
    Struct,
    UpstreamFailureNoWorkFound,
)
from stack_scenes import X0, Y0, make_scene

from lsst.twinkles.diffim.stack import AlardLuptonSubtractTask, DetectAndMeasureTask

FACTS = json.loads((Path(__file__).parent / "data" / "ip_diffim_interface.json").read_text())
SIGMA = 2.4


@pytest.fixture(autouse=True, scope="module")
def stack():
    with afw.install():
        yield


def make_task(**values):
    config = DetectAndMeasureTask.ConfigClass()
    config.doSubtractBackground = False
    config.badSourceFlags = ["base_PixelFlags_flag_offimage"]
    config.update(**values)
    return DetectAndMeasureTask(config=config)


def combine(*terms):
    """Add (sign, exposure) terms, variances too, into a copy of the first."""
    result = terms[0][1].clone()
    result.image.array[...] = sum(sign * e.image.array for sign, e in terms)
    result.variance.array[...] = sum(e.variance.array for _, e in terms)
    return result


def make_difference(sign=1, n=10, flux=1000.0, **values):
    """Make a science exposure with transients, a matched template and their difference."""
    science, sources = make_scene(sigma=SIGMA, **values)
    template, _ = make_scene(sigma=SIGMA, noise=0.25, noise_seed=7, **values)
    transients, truth = make_scene(sigma=SIGMA, seed=11, n_stars=n, flux=flux, noise=1e-3, noise_seed=8)
    science = combine((1, science), (sign, transients))
    return Struct(
        science=science,
        template=template,
        difference=combine((1, science), (-1, template)),
        truth=truth,
        sources=sources,
    )


def run(scene, task=None, **values):
    task = task or make_task(**values)
    return task.run(scene.science, scene.template, scene.difference, scene.sources)


def match(sources, truth, distance=1.0):
    """Index of the nearest true source of each one."""
    d = np.hypot(sources.getX()[:, None] - truth.getX(), sources.getY()[:, None] - truth.getY())
    assert (d.min(axis=1) < distance).all()
    found = d.argmin(axis=1)
    assert len(set(found)) == len(found)
    return found


def test_schema():
    """All columns of the stack's catalogue, with its types and units, and its slots."""
    schema = make_task().outputSchema.schema
    there = {f.field.getName(): (f.field.getTypeString(), f.field.getUnits()) for f in schema}
    for name, kind, unit in FACTS["DetectAndMeasureTask"]["schema"]:
        assert there[name] == (kind, unit), name
    for slot in ("slot_Centroid_x", "slot_PsfFlux_instFlux", "slot_ApFlux_instFlux", "slot_Shape_xx"):
        assert slot in schema
    assert all(f.field.getDoc() for f in schema)


@pytest.mark.parametrize("sign", [1, -1])
def test_transients(sign):
    scene = make_difference(sign)
    before = scene.difference.clone()
    result = run(scene)
    sources = result.diaSources
    assert len(sources) == len(scene.truth)
    index = match(sources, scene.truth, 0.3)
    flux = sources.getPsfInstFlux()
    pull = (flux - sign * scene.truth.getPsfInstFlux()[index]) / sources.getPsfInstFluxErr()
    assert np.abs(pull).max() < 4 and (np.abs(flux) > 900).all()
    assert (sources["is_negative"] == (sign < 0)).all()
    assert (sources["merge_footprint_negative"] == (sign < 0)).all()
    x_pull = (sources.getX() - scene.truth.getX()[index]) / sources["base_SdssCentroid_xErr"]
    assert np.abs(x_pull).max() < 4
    for plane in ("image", "variance", "mask"):
        np.testing.assert_array_equal(getattr(before, plane).array, getattr(scene.difference, plane).array)
    # The image is the difference, the mask has the detections.
    exposure = result.subtractedMeasuredExposure
    np.testing.assert_array_equal(exposure.image.array, scene.difference.image.array)
    name = "DETECTED" if sign > 0 else "DETECTED_NEGATIVE"
    y, x = np.rint(sources.getY()).astype(int) - Y0, np.rint(sources.getX()).astype(int) - X0
    assert ((exposure.mask.array[y, x] & exposure.mask.getPlaneBitMask(name)) != 0).all()
    assert len(result.differenceBackground) == 0
    assert set(result.glintTrailInfo) == {"slopes", "intercepts", "stderrs", "lengths", "angles"}


def test_columns_tell_the_truth():
    scene = make_difference()
    sources = run(scene).diaSources
    index = match(sources, scene.truth, 0.3)
    flux = scene.truth.getPsfInstFlux()[index]
    # Forced fluxes: the transient is in the science image, and nothing is in the template.
    for name, expected in (("", flux), ("_template", 0.0 * flux)):
        forced, error = (sources[f"ip_diffim_forced{name}_PsfFlux_{k}"] for k in ("instFlux", "instFluxErr"))
        apart = np.hypot(
            sources.getX()[:, None] - scene.sources.getX(), sources.getY()[:, None] - scene.sources.getY()
        ).min(axis=1)
        alone = apart > 15
        assert alone.sum() >= 3
        assert (np.abs(forced - expected)[alone] < 6 * error[alone]).all()
    aperture = sources["base_CircularApertureFlux_12_0_instFlux"]
    error = sources["base_CircularApertureFlux_12_0_instFluxErr"]
    assert np.median(np.abs(aperture - flux) / error) < 2
    # Moments of a Gaussian.
    for name, tolerance in (("ext_shapeHSM_HsmPsfMoments", 0.01), ("ext_shapeHSM_HsmSourceMoments", 0.15)):
        for axis in ("xx", "yy"):
            np.testing.assert_allclose(np.median(sources[f"{name}_{axis}"]), SIGMA**2, rtol=tolerance)
    np.testing.assert_allclose(sources["ext_shapeHSM_HsmSourceMoments_x"], sources.getX(), atol=0.3)
    assert sources["base_PsfFlux_area"] == pytest.approx(4 * np.pi * SIGMA**2, rel=0.01)
    # Calibration and sky: 0.2 arcsec a pixel, x to the west.
    assert (sources["base_LocalPhotoCalib"] == 1.0).all()
    scale = np.radians(0.2 / 3600)
    np.testing.assert_allclose(sources["base_LocalWcs_CDMatrix_1_1"], -scale, rtol=1e-3)
    np.testing.assert_allclose(sources["base_LocalWcs_CDMatrix_2_2"], scale, rtol=1e-3)
    ra, dec = scene.science.wcs.pixelToSkyArray(sources.getX(), sources.getY())
    np.testing.assert_allclose(sources["coord_ra"], ra, rtol=1e-12)
    np.testing.assert_allclose(sources["coord_dec"], dec, rtol=1e-12)
    np.testing.assert_allclose(sources["coord_decErr"], sources["base_SdssCentroid_yErr"] * scale, rtol=1e-3)
    np.testing.assert_allclose(sources["ip_diffim_DipoleFit_x"], sources.getX())
    assert (
        sources["ip_diffim_DipoleFit_flag"].all() and not sources["ip_diffim_DipoleFit_classification"].any()
    )


def test_footprints():
    scene = make_difference()
    for source in run(scene).diaSources:
        box = source.getFootprint().getBBox()
        assert box.contains(afw.Point2I(round(source.getX()), round(source.getY())))
        peak = source.getFootprint().getPeaks()[0]
        assert np.hypot(peak.getFx() - source.getX(), peak.getFy() - source.getY()) < 1.0
        assert 20 < source.getFootprint().getArea() < 500


def test_identifiers():
    scene = make_difference()
    factory = afw.IdFactory(5_000_000_000)
    task = make_task()
    first = task.run(scene.science, scene.template, scene.difference, idFactory=factory).diaSources
    second = task.run(scene.science, scene.template, scene.difference, idFactory=factory).diaSources
    ids = np.concatenate([first["id"], second["id"]])
    assert (ids > 5_000_000_000).all() and len(set(ids)) == len(ids)
    assert (first["parent"] == 0).all()
    np.testing.assert_array_equal(run(scene, task).diaSources["id"], np.arange(1, 1 + len(first)))


def test_measurements_are_finite_at_the_edges():
    science, sources = make_scene(sigma=SIGMA, n_stars=1)
    template, _ = make_scene(sigma=SIGMA, n_stars=1, noise=0.25, noise_seed=7)
    difference = combine((1, science), (-1, template))
    y, x = np.mgrid[:256, :256]
    for i, a in enumerate(range(-5, 262, 14)):
        b = (97 * i) % 266 - 5
        star = 1000 * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * SIGMA**2)) / (2 * np.pi * SIGMA**2)
        difference.image.array[...] += star
    found = make_task().run(science, template, difference, sources).diaSources
    assert len(found) > 12
    for name in ("coord_ra", "coord_dec", "base_PsfFlux_instFlux", "ip_diffim_forced_PsfFlux_instFlux"):
        assert np.isfinite(found[name]).all()
    assert ((found.getX() >= X0 - 0.5) & (found.getX() <= X0 + 255.5)).all()
    assert ((found.getY() >= Y0 - 0.5) & (found.getY() <= Y0 + 255.5)).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_background(sign):
    box = afw.Box2D(afw.Box2I(afw.Point2I(X0, Y0), afw.Extent2I(256, 256)))
    sky = afw.Chebyshev1Function2D([2.2, 2.1, 2.0, 1.2, 1.1, 1.0], box)
    scene = make_difference(sign, background=sky)
    scene.difference.image.array[...] += sky(*np.mgrid[:256, :256][::-1] + np.array([X0, Y0])[:, None, None])
    config = DetectAndMeasureTask.ConfigClass()
    config.badSourceFlags = []
    result = run(scene, DetectAndMeasureTask(config=config))
    sources = result.diaSources
    assert len(sources) == len(scene.truth)
    index = match(sources, scene.truth, 0.5)
    pull = (
        sources.getPsfInstFlux() - sign * scene.truth.getPsfInstFlux()[index]
    ) / sources.getPsfInstFluxErr()
    assert np.abs(pull).max() < 4
    removed = scene.difference.image.array - result.subtractedMeasuredExposure.image.array
    y, x = np.mgrid[:256, :256]
    truth = sky(x + X0, y + Y0)
    assert np.abs(removed - truth)[20:-20, 20:-20].std() < 0.15
    (model,) = result.differenceBackground
    assert model[0].getImageBBox() == scene.difference.getBBox()
    assert model[0].getStatsImage().image.array.mean() == pytest.approx(truth.mean(), abs=0.15)


def test_masked_sources_are_not_detected():
    scene = make_difference(n=3)
    assert len(run(scene).diaSources) == 3
    for record, name in zip(scene.truth, ("EDGE", "BAD", "SAT"), strict=True):
        x, y = round(record.getX()) - X0, round(record.getY()) - Y0
        mask = scene.difference.mask
        mask.array[y - 2 : y + 3, x - 2 : x + 3] |= mask.getPlaneBitMask(name)
    with pytest.raises(AlgorithmError, match="No sources were detected"):
        run(scene)
    result = run(scene, raiseOnNoDiaSources=False)
    assert not hasattr(result, "diaSources") and result.subtractedMeasuredExposure is not None


def test_flags_of_masked_pixels():
    scene = make_difference(n=6)
    marks = ("SAT_TEMPLATE", "SPIKE", "HIGH_VARIANCE", "CR", "SUSPECT", "INTRP")
    for record, name in zip(scene.truth, marks, strict=True):
        mask = scene.difference.mask
        mask.addMaskPlane(name)
        x, y = round(record.getX()) - X0, round(record.getY()) - Y0
        reach = 1 if name == "INTRP" else 0
        mask.array[y - reach : y + reach + 1, x - reach : x + reach + 1] |= mask.getPlaneBitMask(name)
    sources = run(scene, doRejectBadMaskPlaneDetections=False).diaSources
    index = match(sources, scene.truth, 1.0)
    names = {"SAT_TEMPLATE": "saturated_template", "INTRP": "interpolated"}
    for i, mark in enumerate(marks):
        name = "base_PixelFlags_flag_" + names.get(mark, mark.lower())
        for suffix in ("", "Center"):
            np.testing.assert_array_equal(sources[name + suffix], index == i)
        np.testing.assert_array_equal(sources[name + "CenterAll"], (index == i) & (mark == "INTRP"))


def test_bad_flags_remove_sources():
    scene = make_difference()
    task = make_task()
    sources = run(scene, task).diaSources
    flags = np.arange(len(sources)) < 4
    sources["base_PixelFlags_flag_offimage"] = flags
    assert len(task._removeBadSources(sources)) == len(sources) - 4
    assert task.metadata["nRemovedBadFlaggedSources"] == 4
    with pytest.raises(InvalidQuantumError, match="Bogus"):
        make_task(badSourceFlags=["Bogus_flag_42"])


def test_missing_planes():
    scene = make_difference(planes=())
    afw.forget_mask_planes()
    assert len(run(scene).diaSources) == 10


def test_psf_without_width():
    scene = make_difference()
    stamp = np.zeros((31, 31))
    stamp[0, :] = 1
    scene.difference.setPsf(afw.KernelPsf(afw.FixedKernel(afw.ImageD(stamp))))
    with pytest.raises(UpstreamFailureNoWorkFound, match="no width"):
        run(scene)


def test_merged_footprints_are_one_source():
    science, sources = make_scene(sigma=SIGMA, n_stars=10, flux=2000.0)
    template, _ = make_scene(sigma=SIGMA, n_stars=10, flux=2000.0, noise=0.25, noise_seed=7)
    template.image.array[...] = np.roll(template.image.array, 1, axis=0)
    scene = Struct(
        science=science, template=template, difference=combine((1, science), (-1, template)), sources=sources
    )
    found = run(scene, raiseOnBadSubtractionRatio=False).diaSources
    assert len(found) == len(sources)
    match(found, sources, 4.0)
    # The template is one pixel too high: the positive lobe lies below the negative one.
    assert found["ip_diffim_DipoleFit_classification"].all()
    np.testing.assert_allclose(found["ip_diffim_DipoleFit_separation"], 1.0, rtol=0.1)
    np.testing.assert_allclose(found["ip_diffim_DipoleFit_orientation"], -np.pi / 2, atol=0.15)
    below = found["ip_diffim_DipoleFit_neg_y"] - found["ip_diffim_DipoleFit_pos_y"]
    np.testing.assert_allclose(below, 1.0, rtol=0.1)
    assert found["merge_footprint_positive"].all() and found["merge_footprint_negative"].all()
    assert not found["is_negative"].any()
    peaks = [source.getFootprint().getPeaks() for source in found]
    assert all({np.sign(p.getPeakValue()) for p in group} == {1.0, -1.0} for group in peaks)
    for group in peaks:
        values = [abs(p.getPeakValue()) for p in group]
        assert values == sorted(values, reverse=True)


def test_bad_subtraction():
    science, sources = make_scene(sigma=SIGMA)
    template, _ = make_scene(sigma=SIGMA, noise=0.25, noise_seed=7)
    scene = Struct(science=science, template=template, difference=science.clone(), sources=sources)
    task = make_task()
    results = Struct()
    with pytest.raises(AlgorithmError, match="difference holds") as error:
        task.run(science, template, scene.difference, sources, measurementResults=results)
    assert error.value.metadata["threshold"] == 0.2
    assert task.metadata["residualFootprintRatioMean"] > 0.5
    # What there is of the results is there.
    assert results.subtractedMeasuredExposure is not None
    found = run(scene, badSubtractionRatioThreshold=1.2).diaSources
    assert len(found) == len(sources)


def test_injected_sources_are_flagged():
    science, sources = make_scene(sigma=SIGMA)
    template, _ = make_scene(sigma=SIGMA, noise_seed=7)
    truth = {}
    for name, exposure, seed in (("injected", science, 21), ("injected_template", template, 23)):
        fakes, truth[name] = make_scene(sigma=SIGMA, seed=seed, n_stars=3, noise=1e-3, flux=2000.0)
        exposure.image.array[...] += fakes.image.array
        exposure.mask.addMaskPlane("FAKE")
        exposure.mask.array[fakes.image.array > 1] |= exposure.mask.getPlaneBitMask("FAKE")
    config = AlardLuptonSubtractTask.ConfigClass()
    config.restrictKernelEdgeSources = False
    config.excludeMaskPlanes = ["NO_DATA", "BAD", "SAT", "EDGE"]
    subtracted = AlardLuptonSubtractTask(config=config).run(template, science, sources)
    found = (
        make_task(raiseOnBadSubtractionRatio=False)
        .run(
            subtracted.matchedScience,
            subtracted.matchedTemplate,
            subtracted.difference,
            subtracted.kernelSources,
        )
        .diaSources
    )
    assert len(found) == 6
    in_science = ~found["is_negative"]
    np.testing.assert_array_equal(found["base_PixelFlags_flag_injectedCenter"], in_science)
    np.testing.assert_array_equal(found["base_PixelFlags_flag_injected_templateCenter"], ~in_science)
    for name, keep, sign in (("injected", in_science, 1), ("injected_template", ~in_science, -1)):
        part = found[keep]
        index = match(part, truth[name], 0.5)
        np.testing.assert_allclose(
            part.getPsfInstFlux(), sign * truth[name].getPsfInstFlux()[index], rtol=0.03
        )


class FakeSkyObjects:
    """The stack's choice of blank sky, at places that are known."""

    def __init__(self, places):
        self.places = places

    def run(self, mask, seed, catalog=None):
        footprints = []
        for x, y in self.places:
            box = afw.Box2I(afw.Point2I(round(x) - 8, round(y) - 8), afw.Extent2I(17, 17))
            footprints.append(afw.Footprint(afw.SpanSet(box)))
            footprints[-1].addPeak(x, y, 0.0)
        return footprints


def test_sky_sources():
    scene = make_difference(n=3)
    task = make_task()
    grid = np.arange(20, 240, 12)
    places = [(X0 + x, Y0 + y) for x in grid for y in grid]
    apart = [p for p in places if np.hypot(scene.truth.getX() - p[0], scene.truth.getY() - p[1]).min() > 20]
    task.skySources = FakeSkyObjects(apart)
    task.stages.there.add("skySources")
    found = run(scene, task).diaSources
    sky = found[found["sky_source"]]
    assert len(sky) == len(apart) and len(found) == len(apart) + 3
    np.testing.assert_allclose(sky.getX(), [p[0] for p in apart])
    # Fluxes at places that nothing was looked for at: their scatter is their error.
    clear = np.hypot(sky.getX()[:, None] - scene.sources.getX(), sky.getY()[:, None] - scene.sources.getY())
    pull = (sky.getPsfInstFlux() / sky.getPsfInstFluxErr())[clear.min(axis=1) > 12]
    assert len(pull) > 100 and abs(pull.mean()) < 0.35 and pull.std() == pytest.approx(1.0, abs=0.15)
    assert not sky["detect_isPrimary"].any() and task.metadata["n_skySources"] == len(apart)
    with pytest.raises(RuntimeError, match="SkyObjectsTask"):
        make_task(doSkySources=True)


class FakeContext:
    def __init__(self, inputs):
        self.inputs, self.outputs = inputs, None
        self.quantum = Struct(dataId={"visit": 42, "detector": 12})

    def get(self, refs):
        return dict(self.inputs)

    def put(self, values, refs):
        self.outputs = values


def test_quantum(monkeypatch):
    scene = make_difference()
    generator = Struct(make_table_id_factory=lambda: afw.IdFactory(10**10))
    inputs = {
        "science": scene.science,
        "matchedTemplate": scene.template,
        "difference": scene.difference,
        "kernelSources": scene.sources,
    }
    task = make_task(writeStreakInfo=True)
    monkeypatch.setattr(type(task.config.idGenerator), "apply", lambda self, data_id: generator)
    context = FakeContext(inputs)
    task.runQuantum(context, None, None)
    assert (context.outputs.diaSources["id"] > 10**10).all()
    names = ("subtractedMeasuredExposure", "glintTrailInfo", "maskedStreaks", "differenceBackground")
    assert all(getattr(context.outputs, name) is not None for name in names)
    # A subtraction that is refused leaves its exposure.
    context = FakeContext(inputs | {"difference": scene.science})
    with pytest.raises(AnnotatedPartialOutputsError):
        task.runQuantum(context, None, None)
    assert context.outputs.subtractedMeasuredExposure is not None and context.outputs.diaSources is None
