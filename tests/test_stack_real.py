"""The stack and the package together: on the real stack where it is set up, else on the plain-Python afw.

Nothing here is looked up in records: exposures are afw's, the stack's tasks and configurations are those
that are set up, and files are opened by `ExposureF.readFits`. Where the stack is not there, ours stand in
the place of its tasks and `stack_reader` in that of its reader, so that nearly every line is run in any case;
what can be said of the real stack alone is skipped.
"""

import re

import numpy as np
import pytest
import stack_here as afw
from lsst.pex.config import Config, ConfigurableField
from lsst.pipe.base import Pipeline, Struct, Task
from small_pairs import NJY, fingerprint, make_pair
from stack_scenes import X0, Y0, blank, make_scene
from test_stack_interface import check_task, facts_of

from lsst.twinkles.diffim import stack
from lsst.twinkles.diffim.adapters import read_afw_exposure
from lsst.twinkles.diffim.adapters.afw.write import write_afw_exposure
from lsst.twinkles.diffim.stack.exposures import visit_image_from_afw
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceTask

SUBTRACT, DETECT = "subtractImages.AlardLuptonSubtractTask", "detectAndMeasure.DetectAndMeasureTask"
PLACES = {
    SUBTRACT: stack.AlardLuptonSubtractTask,
    "subtractImages.AlardLuptonPreconvolveSubtractTask": stack.AlardLuptonPreconvolveSubtractTask,
    "subtractImages.SimplifiedSubtractTask": stack.SimplifiedSubtractTask,
    DETECT: stack.DetectAndMeasureTask,
    "detectAndMeasure.DetectAndMeasureScoreTask": stack.DetectAndMeasureScoreTask,
}
SIGMA = 2.4
NOISE = 1.0

needs_stack = pytest.mark.skipif(not afw.IS_REAL, reason="needs the Rubin stack (lsst.ip.diffim)")


@pytest.fixture(autouse=True, scope="module")
def stack_modules():
    with afw.install():
        yield


@pytest.fixture(scope="module")
def scene():
    """Two exposures of the same stars, of which one has six transients."""
    science, sources = make_scene(sigma=SIGMA, n_stars=30, size=300)
    template, _ = make_scene(sigma=2.0, n_stars=30, size=300, noise_seed=7, border=20)
    new, truth = make_scene(sigma=SIGMA, n_stars=6, size=300, seed=11, flux=1000.0, noise=1e-3, noise_seed=8)
    science.image.array[...] += new.image.array
    science.variance.array[...] += new.variance.array
    return Struct(science=science, template=template, sources=sources, truth=truth)


# --------------------------------------------------------------------------- ours in the place of the stack's


class HostConfig(Config):
    """A task of somebody else's, that calls the stack's tasks."""

    subtract = ConfigurableField(
        doc="Subtraction.", target=afw.stack_task(SUBTRACT, stack.AlardLuptonSubtractTask)
    )
    detect = ConfigurableField(doc="Detection.", target=afw.stack_task(DETECT, stack.DetectAndMeasureTask))


class HostTask(Task):
    ConfigClass = HostConfig
    _DefaultName = "host"

    def run(self, scene):
        subtract, detect = (
            field.target(config=field.value, name=name, parentTask=self)
            for name, field in (("subtract", self.config.subtract), ("detect", self.config.detect))
        )
        result = subtract.run(scene.template, scene.science, scene.sources)
        found = detect.run(scene.science, result.matchedTemplate, result.difference, scene.sources)
        return Struct(**result.getDict(), **found.getDict(), metadata=subtract.metadata)


def make_host(*, ours):
    config = HostConfig()
    if ours:
        config.subtract.retarget(stack.AlardLuptonSubtractTask)
        config.detect.retarget(stack.DetectAndMeasureTask)
    config.subtract.restrictKernelEdgeSources = False
    selector = config.subtract.sourceSelector
    selector.doFlags = True
    selector.flags.bad = ["base_PsfFlux_flag"]
    config.detect.doSubtractBackground = False
    config.detect.badSourceFlags = ["base_PixelFlags_flag_offimage"]
    return HostTask(config=config)


def match(sources, truth):
    """Return for every true source the index of the nearest one found, and its distance."""
    d = np.hypot(sources.getX()[:, None] - truth.getX(), sources.getY()[:, None] - truth.getY())
    return d.argmin(axis=0), d.min(axis=0)


def copy(scene):
    """The stack's tasks change their inputs."""
    return Struct(
        science=scene.science.clone(),
        template=scene.template.clone(),
        sources=scene.sources.copy(deep=True),
        truth=scene.truth,
    )


def check_host(result, scene):
    difference, sources = result.difference, result.diaSources
    assert isinstance(difference, afw.ExposureF) and isinstance(sources, afw.SourceCatalog)
    assert difference.getBBox() == scene.science.getBBox() == result.matchedTemplate.getBBox()
    good = blank(scene.science) & blank(difference)
    image = difference.image.array[good]
    assert 1.4826 * np.median(np.abs(image - np.median(image))) == pytest.approx(np.sqrt(2), rel=0.04)
    assert np.median(difference.variance.array[good]) == pytest.approx(2 * NOISE**2, rel=0.08)
    index, distance = match(sources, scene.truth)
    assert distance.max() < 0.3 and len(set(index)) == len(scene.truth)
    return index


def test_ours_on_afw_exposures(scene):
    scene = copy(scene)
    result = make_host(ours=True).run(scene)
    index = check_host(result, scene)
    assert len(result.diaSources) == len(scene.truth)
    flux, error = result.diaSources.getPsfInstFlux(), result.diaSources.getPsfInstFluxErr()
    pull = (flux[index] - scene.truth.getPsfInstFlux()) / error[index]
    assert np.abs(pull).max() < 4
    assert isinstance(result.psfMatchingKernel, afw.LinearCombinationKernel)


@needs_stack
def test_ours_beside_the_stacks(scene):
    """Both, of the same exposures, with the same overrides."""
    one, other = copy(scene), copy(scene)
    theirs, ours = make_host(ours=False).run(one), make_host(ours=True).run(other)
    index = [check_host(result, scene) for result in (theirs, ours)]
    assert set(theirs.getDict()) <= set(ours.getDict())
    for name in theirs.diaSources.schema.getNames():
        assert name in ours.diaSources.schema.getNames(), name
    fluxes = [r.diaSources.getPsfInstFlux()[i] for r, i in zip((theirs, ours), index, strict=True)]
    np.testing.assert_allclose(fluxes[1], fluxes[0], rtol=0.08)
    assert set(theirs.difference.mask.getMaskPlaneDict()) <= set(ours.difference.mask.getMaskPlaneDict())


@pytest.mark.parametrize("place", PLACES)
def test_overrides_of_the_stacks_configurations_load(place, tmp_path):
    """What a configuration of theirs saves sets ours, every field of it."""
    theirs = afw.stack_task(place, PLACES[place]).ConfigClass()
    theirs.connections.coaddName = "goodSeeing"
    plain = re.findall(r"^config\.\w+=.*$", theirs.saveToString(), flags=re.MULTILINE)
    assert len(plain) > 10
    (tmp_path / "overrides.py").write_text("\n".join(plain))
    ours = PLACES[place].ConfigClass()
    ours.load(tmp_path / "overrides.py")
    ours.validate()
    for line in plain:
        name = line.partition("=")[0].removeprefix("config.")
        assert getattr(ours, name) == getattr(theirs, name), name


PIPELINE = """
description: One task of a pipeline of the stack's, with our class in its place.
tasks:
  subtractImages:
    class: {}
    config:
      connections.coaddName: goodSeeing
      connections.science: preliminary_visit_image
      doApplyExternalCalibrations: False
      python: config.makeKernel.kernel.active.fitForBackground = True
"""


def test_class_line():
    """A pipeline gives the same datasets whichever class it names."""
    theirs = afw.stack_task(SUBTRACT, stack.AlardLuptonSubtractTask)
    tasks = []
    for task in (theirs, stack.AlardLuptonSubtractTask):
        name = f"{task.__module__}.{task.__name__}"
        tasks.append(Pipeline.fromString(PIPELINE.format(name)).to_graph().tasks["subtractImages"])
    one, other = tasks
    assert other.task_class is stack.AlardLuptonSubtractTask and one.task_class is theirs
    for side in ("inputs", "outputs", "prerequisite_inputs"):
        there = {name: edge.dataset_type_name for name, edge in getattr(one, side).items()}
        assert {name: edge.dataset_type_name for name, edge in getattr(other, side).items()} == there


@pytest.mark.parametrize("place", PLACES)
def test_interface(place):
    """Fields, defaults, connections and arguments are those of the code that is set up."""
    check_task(PLACES[place], facts_of(afw.stack_task(place, PLACES[place])), exact=not afw.IS_REAL)


# --------------------------------------------------------------------------- the stack's in the place of ours


@pytest.fixture(scope="module")
def pair():
    return make_pair(n_transients=4, signal_to_noise=60, noise=1.0)


def make_task(*, subtract, measure):
    """Return our task whose subtraction or measurement are the stack's."""
    config = ImageDifferenceTask.ConfigClass()
    config.doScaleDiffimVariance = config.raiseOnBadSubtractionRatio = False
    if subtract:
        config.subtract.retarget(stack.StackSubtractTask)
        there = config.subtract.subtractImages
        if not afw.IS_REAL:
            there.retarget(stack.AlardLuptonSubtractTask)
        there.restrictKernelEdgeSources = there.doScaleVariance = False
        there.doSubtractBackground = True
        there.sourceSelector.signalToNoise.maximum = None
    if measure:
        config.measurement.retarget(stack.StackDetectAndMeasureTask)
        there = config.measurement.detectAndMeasure
        if not afw.IS_REAL:
            there.retarget(stack.DetectAndMeasureTask)
        there.doSubtractBackground = False
    return ImageDifferenceTask(config=config)


@pytest.mark.parametrize("subtract, measure", [(True, False), (False, True), (True, True)])
def test_the_stacks_tasks_as_our_stages(pair, subtract, measure):
    before = fingerprint(pair.science), fingerprint(pair.template)
    result = make_task(subtract=subtract, measure=measure).run(pair.science, pair.template)
    assert (fingerprint(pair.science), fingerprint(pair.template)) == before
    table = result.diaSources
    names = ("base_SdssCentroid_x", "base_SdssCentroid_y") if measure else ("x", "y")
    x, y = (np.asarray(table[name], float) for name in names)
    flux = np.asarray(table["base_PsfFlux_instFlux"], float) * NJY if measure else table["psfFlux"]
    for true_x, true_y, true_flux in pair.transients:
        distance = np.hypot(x - true_x, y - true_y)
        assert distance.min() < 0.3
        # The stack's task gives a white difference the PSF of the science image: fluxes are some percent off.
        assert flux[distance.argmin()] / (true_flux * NJY) == pytest.approx(1.0, abs=0.1)
    assert len(table) <= 4 + (2 if afw.IS_REAL else 0)


# ------------------------------------------------------------------------------------------------------ files


def test_the_stack_opens_what_is_written(pair, tmp_path):
    """A difference with its catalogue of planes, PSF, sky and calibration."""
    difference = make_task(subtract=False, measure=False).run(pair.science, pair.template).subtractedExposure
    for exposure, name in ((pair.science, "science.fits"), (difference, "difference.fits")):
        write_afw_exposure(exposure, tmp_path / name)
        found = afw.Opened(tmp_path / name)
        np.testing.assert_array_equal(found.image, exposure.image.array)
        np.testing.assert_array_equal(found.variance, exposure.variance.array)
        for plane in ("DETECTED", "BAD", "NO_DATA"):
            if plane in exposure.mask.schema.names:
                np.testing.assert_array_equal(found.planes[plane], exposure.mask.get(plane))
        assert found.xy0 == (exposure.bbox.x.start, exposure.bbox.y.start) and found.band == exposure.band
        for x, y in ((10.0, 20.0), (200.0, 150.0)):
            expected = exposure.sky_projection.pixel_to_sky(x=x, y=y)
            assert found.sky(x, y) == pytest.approx((expected.ra.deg, expected.dec.deg), abs=1e-3 / 3.6e6)
            psf = exposure.psf.compute_kernel_image(x=x, y=y).array
            check_stamps(found.psf(x, y), psf / psf.sum(), tolerance=2e-4)
    assert afw.Opened(tmp_path / "science.fits").nanojansky == pytest.approx(NJY)


def check_stamps(found, expected, *, tolerance):
    """Compare PSF images of perhaps different sizes, relative to the peak."""
    half = min(found.shape[0], expected.shape[0]) // 2
    y, x = (slice(n // 2 - half, n // 2 + half + 1) for n in expected.shape)
    v, u = (slice(n // 2 - half, n // 2 + half + 1) for n in found.shape)
    np.testing.assert_allclose(found[v, u], expected[y, x], atol=tolerance * expected.max())


def test_what_the_stack_writes_is_read(scene, tmp_path):
    """To 1e-6 of the PSF's peak, a thousandth of an arcsecond, 1e-6 in flux."""
    exposure = scene.science.clone()
    exposure.setPhotoCalib(afw.PhotoCalib(NJY))
    exposure.mask.array[3:5, 7:9] |= exposure.mask.getPlaneBitMask("SAT")
    afw.write_as_the_stack(exposure, tmp_path / "exposure.fits")
    found = read_afw_exposure(tmp_path / "exposure.fits")
    np.testing.assert_array_equal(found.image.array, exposure.image.array)
    np.testing.assert_array_equal(found.variance.array, exposure.variance.array)
    sat = (exposure.mask.array & exposure.mask.getPlaneBitMask("SAT")) != 0
    np.testing.assert_array_equal(found.mask.get("SATURATED"), sat)
    assert (found.bbox.x.start, found.bbox.y.start) == (X0, Y0)
    psf = exposure.psf.computeKernelImage(afw.Point2D(X0 + 50.0, Y0 + 60.0)).array
    stamp = found.psf.compute_kernel_image(x=X0 + 50.0, y=Y0 + 60.0).array
    check_stamps(stamp / stamp.sum(), psf / psf.sum(), tolerance=1e-6)
    ra, dec = (
        v.item() for v in exposure.wcs.pixelToSkyArray(np.array([X0 + 50.0]), np.array([Y0 + 60.0]), True)
    )
    position = found.sky_projection.pixel_to_sky(x=X0 + 50.0, y=Y0 + 60.0)
    assert (position.ra.deg, position.dec.deg) == pytest.approx((ra, dec), abs=1e-3 / 3.6e6)
    assert visit_image_from_afw(exposure, name="exposure").bbox == found.bbox
