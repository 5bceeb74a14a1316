"""Our subtraction in the place of ip_diffim's: what the stack's own tests claim of theirs holds of ours.

The claims are those of ip_diffim's ``test_subtractTask.py``, on scenes made here; afw is `stack_here`.
"""

import fake_afw
import numpy as np
import pytest
import stack_here as afw
from lsst.pex.config import FieldValidationError
from lsst.pipe.base import AlgorithmError, AnnotatedPartialOutputsError, NoWorkFound, Struct
from small_exposures import make_wcs
from stack_scenes import X0, Y0, blank, make_scene, make_subtract_task

from lsst.twinkles.diffim.stack import AlardLuptonSubtractTask

GOOD, MIDDLE, BAD = 2.0, 2.4, 2.8  # PSF widths
CENTRE = afw.Point2D(X0 + 128.0, Y0 + 128.0)


@pytest.fixture(autouse=True, scope="module")
def stack():
    with afw.install():
        yield


def make_task(**values):
    return make_subtract_task(AlardLuptonSubtractTask, **values)


def subtract(science_sigma=MIDDLE, template_sigma=GOOD, *, task=None, science=None, template=None, **values):
    science, sources = make_scene(sigma=science_sigma, **(science or {}))
    template, _ = make_scene(sigma=template_sigma, noise_seed=7, **({"border": 20} | (template or {})))
    task = task or make_task(**values)
    return task.run(template, science, sources), science, template, task


def stamp(psf):
    return psf.computeKernelImage(CENTRE).array


@pytest.fixture(scope="module")
def plain():
    return subtract()


def test_modes():
    config = AlardLuptonSubtractTask.ConfigClass()
    for mode in ("auto", "convolveScience", "convolveTemplate"):
        config.mode = mode
    with pytest.raises(FieldValidationError):
        config.mode = "aotu"


def test_types_and_what_the_difference_keeps(plain):
    result, science, _, _ = plain
    assert isinstance(result, Struct)
    for name in ("difference", "matchedTemplate", "matchedScience"):
        exposure = getattr(result, name)
        assert isinstance(exposure, afw.ExposureF) and exposure.getBBox() == science.getBBox()
        assert exposure.image.array.dtype == exposure.variance.array.dtype == np.float32
    assert isinstance(result.psfMatchingKernel, afw.LinearCombinationKernel)
    assert isinstance(result.kernelSources, afw.SourceCatalog)
    assert result.difference.wcs == science.wcs and result.difference.filter == science.filter
    assert result.difference.photoCalib == science.photoCalib == result.matchedTemplate.photoCalib
    assert result.difference.getVisitInfo() is science.getVisitInfo()


def test_inputs_stay_as_they_are():
    science, sources = make_scene(sigma=MIDDLE)
    template, _ = make_scene(sigma=GOOD, noise_seed=7, border=20)
    before = [e.clone() for e in (science, template)]
    make_task(mode="auto").run(template, science, sources)
    for old, new in zip(before, (science, template), strict=True):
        for plane in ("image", "variance", "mask"):
            np.testing.assert_array_equal(getattr(old, plane).array, getattr(new, plane).array)


@pytest.mark.parametrize(
    "science, template, mode",
    [(MIDDLE, GOOD, "convolveTemplate"), (GOOD, MIDDLE, "convolveScience"), (MIDDLE, MIDDLE, "auto")],
)
@pytest.mark.parametrize("noises", [(1.0, 1.0), (1.0, 0.1)])
def test_noise_and_variance(science, template, mode, noises):
    result, exposure, _, task = subtract(
        science, template, mode=mode, science={"noise": noises[0]}, template={"noise": noises[1]}
    )
    image, expected = result.difference.image.array, np.hypot(*noises)
    assert np.isfinite(image).all()
    good = blank(exposure) & blank(result.difference)
    assert abs(image[good].mean()) < 5 * sum(noises) / np.sqrt(image.size)
    assert image[good].std() == pytest.approx(expected, rel=0.03)
    assert np.median(result.difference.variance.array[good]) == pytest.approx(expected**2, rel=0.06)
    assert task.metadata["scaleScienceVarianceFactor"] == pytest.approx(1.0, abs=0.05)
    assert task.metadata["scaleTemplateVarianceFactor"] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("science, template", [(MIDDLE, GOOD), (GOOD, MIDDLE)])
def test_auto_is_the_mode_that_fits(science, template):
    mode = "convolveTemplate" if science > template else "convolveScience"
    fixed = subtract(science, template, mode=mode)[0]
    auto, _, _, task = subtract(science, template, mode="auto")
    assert task.metadata["convolvedExposure"] == mode.removeprefix("convolve")
    for plane in ("image", "variance", "mask"):
        np.testing.assert_array_equal(
            getattr(fixed.difference, plane).array, getattr(auto.difference, plane).array
        )


def test_symmetry():
    one = subtract(GOOD, MIDDLE, template={"border": 0}, mode="auto")[0].difference
    science, sources = make_scene(sigma=GOOD)
    template, _ = make_scene(sigma=MIDDLE, noise_seed=7)
    swapped = make_task(mode="auto").run(science, template, sources).difference
    good = blank(science)
    # Each is the other with the sign changed.
    assert (one.image.array + swapped.image.array)[good].std() < 0.1
    assert (one.image.array - swapped.image.array)[good].std() == pytest.approx(2 * np.sqrt(2), rel=0.05)


def test_equal_images_do_not_depend_on_the_direction():
    results = [
        subtract(MIDDLE, MIDDLE, mode=mode, science={"noise": 0.1}, template={"noise": 0.1, "border": 0})
        for mode in ("convolveTemplate", "convolveScience")
    ]
    one, other = (r[0].difference.image.array for r in results)
    plain = results[0][1].image.array - results[0][2].image.array
    # 7 sigma, where ip_diffim's own test asks 5 (doc/stack.md): signal-to-noise ratios are 1000.
    np.testing.assert_allclose(one, plain, atol=0.7)
    np.testing.assert_allclose(other, plain, atol=0.7)
    np.testing.assert_allclose(one, other, atol=1.0)


def test_mismatched_exposures():
    science, sources = make_scene(sigma=MIDDLE, size=220)
    small, _ = make_scene(sigma=GOOD, size=200)
    with pytest.raises(AssertionError, match="do not contain those of the science"):
        make_task().run(small, science, sources)
    other, _ = make_scene(sigma=GOOD, size=220, band="r")
    with pytest.raises(AssertionError, match="band g, the template in band r"):
        make_task().run(other, science, sources)
    moved, _ = make_scene(sigma=GOOD, size=220)
    moved.setWcs(afw.make_sky_wcs(make_wcs(crpix=(X0 + 100.0, Y0 + 100.0), ra=53.00001)))
    with pytest.raises(AssertionError, match="WCS"):
        make_task().run(moved, science, sources)


@pytest.mark.parametrize("coverage, works", [(0.07, False), (0.15, False), (0.7, True)])
def test_template_coverage(coverage, works):
    science, sources = make_scene(sigma=MIDDLE, size=400, n_stars=80, seed=6)
    template, _ = make_scene(sigma=GOOD, size=400, n_stars=80, seed=6, noise_seed=7, border=20)
    template.image.array[:, 20 + int(400 * coverage) :] = 0.0
    template.mask.array[:, 20 + int(400 * coverage) :] = template.mask.getPlaneBitMask("NO_DATA")
    task = make_task(requiredTemplateFraction=0.1, minKernelSources=10)
    if not works:
        with pytest.raises(NoWorkFound, match="percent"):
            task.run(template, science, sources)
        return
    result = task.run(template, science, sources)
    assert task.metadata["templateCoveragePercent"] == pytest.approx(70.0, abs=0.3)
    no_data = (result.difference.mask.array & afw.Mask.getPlaneBitMask("NO_DATA")) != 0
    assert no_data[:, 280:].all() and not no_data[:, :250].any()
    assert (result.difference.image.array[:, 280:] == 0).all()


def test_planes():
    science, sources = make_scene(sigma=MIDDLE)
    template, _ = make_scene(sigma=GOOD, noise_seed=7, border=20)
    names = list(template.mask.getMaskPlaneDict())
    before = {n: (science.mask.array & afw.Mask.getPlaneBitMask(n)) != 0 for n in names}
    marked = np.zeros(template.mask.array.shape, bool)
    marked[150:170, 50:70] = True
    for name in names:
        template.mask.array[marked] |= template.mask.getPlaneBitMask(name)
    result = make_task(preserveTemplateMask=["BAD", "HIGH_VARIANCE"]).run(template, science, sources)
    mask = result.difference.mask
    there = {n: (mask.array & afw.Mask.getPlaneBitMask(n)) != 0 for n in mask.getMaskPlaneDict()}
    inner = marked[20:-20, 20:-20]
    for name in names:
        if name.startswith("DETECTED"):
            assert not there[name].any()
        else:
            assert there[name][before[name]].all()
    for name in ("BAD", "HIGH_VARIANCE", "SAT_TEMPLATE", "INJECTED_TEMPLATE"):
        assert there[name][inner].all()
    for name in ("CR", "SUSPECT", "INTRP", "INJECTED", "STREAK"):
        assert not there[name][inner].any()
    left = (result.matchedTemplate.mask.array & afw.Mask.getPlaneBitMask("CR")) != 0
    assert not left.any()


def test_injected_sources_keep_their_pixels():
    science, sources = make_scene(sigma=MIDDLE)
    template, _ = make_scene(sigma=MIDDLE, noise_seed=7)
    for exposure, place in ((science, np.s_[40:43, 100:103]), (template, np.s_[200:203, 30:33])):
        exposure.mask.addMaskPlane("FAKE")
        exposure.mask.array[place] |= exposure.mask.getPlaneBitMask("FAKE")
    mask = make_task().run(template, science, sources).difference.mask
    for name, place in (("INJECTED", np.s_[40:43, 100:103]), ("INJECTED_TEMPLATE", np.s_[200:203, 30:33])):
        expected = np.zeros(mask.array.shape, bool)
        expected[place] = True
        np.testing.assert_array_equal((mask.array & mask.getPlaneBitMask(name)) != 0, expected)


@pytest.mark.parametrize("mode", ["convolveTemplate", "convolveScience"])
@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("wrong", [1.0, 1.345])
def test_variance_scaling(mode, whiten, wrong):
    widths = (MIDDLE, GOOD) if mode == "convolveTemplate" else (GOOD, MIDDLE)
    science, sources = make_scene(sigma=widths[0], noise=4.0, flux=2000.0)
    template, _ = make_scene(sigma=widths[1], noise=2.0, noise_seed=7, flux=2000.0)
    science.variance.array[...] /= wrong
    template.variance.array[...] /= wrong
    task = make_task(mode=mode, doDecorrelation=whiten)
    result = task.run(template, science, sources)
    assert task.metadata["scaleScienceVarianceFactor"] == pytest.approx(wrong, abs=0.05)
    assert task.metadata["scaleTemplateVarianceFactor"] == pytest.approx(wrong, abs=0.05)
    good = blank(science) & blank(result.difference)
    variance = np.median(result.difference.variance.array[good])
    if whiten:
        assert variance == pytest.approx(20.0, rel=0.06)
    else:
        parts = result.matchedScience.variance.array + result.matchedTemplate.variance.array
        assert variance == pytest.approx(np.median(parts[good]), rel=0.01)
    unscaled = make_task(mode=mode, doDecorrelation=whiten, doScaleVariance=False).run(
        template, science, sources
    )
    ratio = unscaled.difference.variance.array[good] / result.difference.variance.array[good]
    assert np.median(ratio) == pytest.approx(1 / wrong, rel=0.05)


@pytest.mark.parametrize("mode", ["convolveTemplate", "convolveScience"])
def test_psf_of_the_difference(mode):
    widths = (MIDDLE, GOOD) if mode == "convolveTemplate" else (GOOD, MIDDLE)
    plain, science, template, _ = subtract(*widths, mode=mode, doDecorrelation=False)
    kept = science if mode == "convolveTemplate" else template
    np.testing.assert_array_equal(stamp(plain.difference.psf), stamp(kept.psf))
    whitened = subtract(*widths, mode=mode)[0]
    # A point source of the difference has the PSF that the difference carries.
    assert stamp(whitened.difference.psf).sum() == pytest.approx(1.0)
    assert stamp(whitened.difference.psf).max() > 1.1 * stamp(kept.psf).max()


def test_a_transient_has_the_psf_of_the_difference():
    science, sources = make_scene(sigma=MIDDLE, noise=0.01, flux=500.0)
    template, _ = make_scene(sigma=GOOD, noise=0.01, noise_seed=7)
    y, x = np.mgrid[:256, :256]
    science.image.array[...] += (
        3000 * np.exp(-((x - 128) ** 2 + (y - 60) ** 2) / (2 * MIDDLE**2)) / (2 * np.pi * MIDDLE**2)
    )
    difference = make_task(doScaleVariance=False).run(template, science, sources).difference
    image = stamp(difference.psf)
    half = image.shape[0] // 2
    cut = difference.image.array[60 - half : 60 + half + 1, 128 - half : 128 + half + 1]
    assert (cut * image).sum() / (image**2).sum() == pytest.approx(3000.0, rel=0.01)
    assert np.abs(cut - 3000 * image).max() < 0.02 * cut.max()


def test_background():
    params = [2.2, 2.1, 2.0, 1.2, 1.1, 1.0]
    box = afw.Box2D(afw.Box2I(afw.Point2I(X0, Y0), afw.Extent2I(256, 256)))
    sky = afw.Chebyshev1Function2D(params, box)
    template_sky = afw.Chebyshev1Function2D([5.0, -1.0, 0.5], box)
    results = {}
    for remove in (True, False):
        result, science, _, _ = subtract(
            science={"background": sky},
            template={"background": template_sky},
            doSubtractBackground=remove,
        )
        results[remove] = result
    model = results[True].backgroundModel
    assert model.getNParameters() == len(params) and results[False].backgroundModel is None
    y, x = np.mgrid[20:236, 20:236]
    expected = sky(x + X0, y + Y0) - template_sky(x + X0, y + Y0)
    np.testing.assert_allclose(model(x + X0, y + Y0), expected, atol=0.25)
    good = blank(science)
    assert results[True].difference.image.array[good].std() == pytest.approx(np.sqrt(2), rel=0.03)
    kept = results[False].difference.image.array - results[True].difference.image.array
    np.testing.assert_allclose(kept[20:236, 20:236], expected, atol=0.25)


def test_few_sources():
    science, sources = make_scene(sigma=MIDDLE, n_stars=10)
    template, _ = make_scene(sigma=GOOD, n_stars=10, noise_seed=7)
    with pytest.raises(AlgorithmError, match="Only 1 sources") as error:
        make_task().run(template, science, sources[0:1])
    assert error.value.metadata == {"nSources": 1, "nRequired": 3}
    task = make_task(allowKernelSourceDetection=True)
    result = task.run(template, science, sources[0:1])
    assert len(result.kernelSources) >= 3 and task.metadata["nPsfSources"] == len(result.kernelSources)
    found = result.kernelSources[0]
    distance = np.hypot(sources.getX() - found.getX(), sources.getY() - found.getY())
    assert distance.min() < 1.5 and found.getFootprint().getBBox().getWidth() % 2 == 1


@pytest.mark.parametrize("most", [1000, 4, -1])
def test_choice_of_sources(most):
    science, sources = make_scene(sigma=MIDDLE, n_stars=24)
    template, _ = make_scene(sigma=GOOD, n_stars=24, noise_seed=7)
    task = make_task(maxKernelSources=most)
    task.templatePsfSize, task.sciencePsfSize = 2.3548 * GOOD, 2.3548 * MIDDLE
    task.matchedPsfSize = task.sciencePsfSize
    size = 31  # of the kernel for these PSFs, by the stack's rule
    edge = [np.floor(p + 0.5 - p0) for p, p0 in ((sources.getX(), X0), (sources.getY(), Y0))]
    inside = np.all([(p >= size) & (p < 256 - size) for p in edge], axis=0)
    flags = np.arange(24) % 3 == 0
    sources["base_PsfFlux_flag"] = flags
    chosen = task._sourceSelector(template, science, sources)
    good = inside & ~flags
    expected = np.sort(sources.getPsfInstFlux()[good])[-most if most > 0 else 0 :]
    assert 4 < good.sum() < 16
    np.testing.assert_array_equal(np.sort(chosen.getPsfInstFlux()), expected)
    assert len(sources) == 24
    with pytest.raises(RuntimeError):
        task = make_task(minKernelSources=1000)
        task.matchedPsfSize = task.templatePsfSize = task.sciencePsfSize = 5.0
        task._sourceSelector(template, science, sources)


def test_sources_near_the_edge_are_left_out_on_request():
    science, sources = make_scene(sigma=MIDDLE)
    template, _ = make_scene(sigma=GOOD, noise_seed=7)
    sizes = {}
    for restrict in (True, False):
        task = make_task(restrictKernelEdgeSources=restrict)
        sizes[restrict] = task.run(template, science, sources).kernelSources
    assert len(sizes[True]) < len(sizes[False])
    # Footprint and border: twice the kernel.
    assert (np.abs(sizes[True].getX() - X0 - 127.5) < 128 - 2 * 31).all()


class GapPsf(fake_afw.GaussianPsf):
    """No value at its average position, as a coadd has gaps."""

    def getAveragePosition(self):
        return afw.Point2D(-10000.0, -10000.0)

    def computeKernelImage(self, position=None):
        position = position or self.getAveragePosition()
        if position.x < 0:
            raise afw.InvalidParameterError("no input at this position")
        return super().computeKernelImage(position)


def test_template_psf_with_gaps(caplog):
    afw.need_plain_python()
    science, sources = make_scene(sigma=MIDDLE)
    template, _ = make_scene(sigma=GOOD, noise_seed=7, border=20)
    template.setPsf(GapPsf(31, 31, GOOD))
    task = make_task(mode="auto")
    with caplog.at_level("INFO"):
        result = task.run(template, science, sources)
    assert any("Evaluting PSF on a grid of points" in r.message for r in caplog.records)
    assert task.metadata["templatePsfSize"] == pytest.approx(2.3548 * GOOD, rel=0.01)
    assert np.isnan(task._calculateMagLim(template))
    # The area of a circle of that FWHM takes the place of the moments.
    depth = 31.4 - 2.5 * np.log10(5 * np.sqrt(np.pi) * task.metadata["templatePsfSize"] / 2)
    assert task.metadata["templateLimitingMagnitude"] == pytest.approx(depth, abs=1e-6)
    good = blank(science)
    assert result.difference.image.array[good].std() == pytest.approx(np.sqrt(2), rel=0.03)


def test_figures_in_the_metadata():
    _, science, template, task = subtract(BAD, MIDDLE, template={"noise": 0.25})
    widths = [e.psf.computeShape(CENTRE) for e in (science, template)]
    depths = [31.4 - 2.5 * np.log10(5 * np.sqrt(np.pi * np.sqrt(w.getIxx() * w.getIyy()))) for w in widths]
    assert task.metadata["scienceLimitingMagnitude"] == pytest.approx(depths[0], abs=1e-6)
    assert task.metadata["templateLimitingMagnitude"] == pytest.approx(depths[1], abs=1e-6)
    both = -2.5 * np.log10(np.hypot(*(10 ** (-0.4 * d) for d in depths)))
    assert task.metadata["diffimLimitingMagnitude"] == pytest.approx(both, abs=1e-6)
    worse = subtract(BAD, 7.0, template={"noise": 0.25})[3]
    assert task.metadata["differenceFootprintRatioMean"] < 0.05
    assert worse.metadata["differenceFootprintRatioMean"] > 3 * task.metadata["differenceFootprintRatioMean"]


def test_calibrations_of_the_visit():
    science, sources = make_scene(sigma=MIDDLE)
    template, _ = make_scene(sigma=GOOD, noise_seed=7)
    science.setPsf(afw.GaussianPsf(31, 31, 3.5))  # wrong
    science.setDetector(afw.make_detector(4))
    afw.need_plain_python()
    corrections = afw.ApCorrMap(base_PsfFlux="field")
    better = afw.GaussianPsf(31, 31, MIDDLE)
    summary = afw.ExposureCatalog({4: afw.ExposureCatalogRow(better, corrections)})
    task = make_task(doApplyExternalCalibrations=True)
    result = task.run(template, science, sources, visitSummary=summary)
    assert task.metadata["sciencePsfSize"] == pytest.approx(2.3548 * MIDDLE, rel=0.01)
    assert result.difference.info.getApCorrMap() is corrections and science.info.getApCorrMap() is None
    for empty in ({}, {4: afw.ExposureCatalogRow(None, corrections)}):
        task.run(template, science, sources, visitSummary=afw.ExposureCatalog(empty))
        assert task.metadata["sciencePsfSize"] == pytest.approx(2.3548 * 3.5, rel=0.01)


def test_zogy_in_the_stack():
    config = AlardLuptonSubtractTask.ConfigClass()
    config.restrictKernelEdgeSources = False
    config.makeKernel.kernel.name = "zogy"
    result, science, _, _ = subtract(MIDDLE, BAD, task=AlardLuptonSubtractTask(config=config))
    good = blank(science) & blank(result.difference)
    assert result.difference.image.array[good].std() == pytest.approx(np.sqrt(2), rel=0.03)
    assert np.median(result.difference.variance.array[good]) == pytest.approx(2.0, rel=0.06)


def test_settings_without_effect_are_named(caplog):
    config = AlardLuptonSubtractTask.ConfigClass()
    config.makeKernel.kernel.active.maxKsumSigma = 2.0
    AlardLuptonSubtractTask(config=config)
    assert "makeKernel.kernel.active.maxKsumSigma=2.0 has no effect" in caplog.text
    config = AlardLuptonSubtractTask.ConfigClass()
    config.makeKernel.kernel.name = "DF"
    with pytest.raises(FieldValidationError, match="set it to 'AL' or 'zogy'"):
        config.validate()


class FakeContext:
    """A `QuantumContext` that hands out what it holds."""

    def __init__(self, inputs):
        self.inputs, self.outputs = inputs, None

    def get(self, refs):
        return self.inputs

    def put(self, values, refs):
        self.outputs = values


def test_quantum():
    science, sources = make_scene(sigma=MIDDLE)
    template, _ = make_scene(sigma=GOOD, noise_seed=7)
    context = FakeContext({"template": template, "science": science, "sources": sources})
    make_task().runQuantum(context, None, None)
    names = {
        name
        for name, c in AlardLuptonSubtractTask.ConfigClass()
        .connections.ConnectionsClass(config=AlardLuptonSubtractTask.ConfigClass())
        .allConnections.items()
        if type(c).__name__ == "Output"
    }
    assert names == {"difference", "matchedTemplate", "psfMatchingKernel", "kernelSources"}
    assert all(getattr(context.outputs, name) is not None for name in names)
    context = FakeContext({"template": template, "science": science, "sources": sources[0:1]})
    with pytest.raises(AnnotatedPartialOutputsError):
        make_task().runQuantum(context, None, None)
    assert context.outputs is None
