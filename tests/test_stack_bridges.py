"""The stack's tasks in the place of ours, and the old task of the stack with our subtraction.

In the place of the stack's tasks stand ours that have their interface: what goes through the bridge and back
has to be what the same tasks do without it.
"""

import astropy.units as u
import fake_afw as afw
import numpy as np
import pytest
import stack_here
from lsst.images import SkyProjection
from lsst.images.fields import ChebyshevField
from lsst.pex.config import Config, ConfigurableField, Field
from lsst.pipe.base import Task
from small_exposures import make_wcs
from small_pairs import NJY, fingerprint, make_pair
from stack_scenes import blank, make_scene

from lsst.twinkles.diffim import stack
from lsst.twinkles.diffim.stack import release_25
from lsst.twinkles.diffim.stack.exposures import visit_image_from_afw
from lsst.twinkles.diffim.stack.psfs import AfwPsf, psf_to_afw
from lsst.twinkles.diffim.stack.to_afw import exposure_to_afw
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceTask


@pytest.fixture(autouse=True, scope="module")
def stack_modules():
    if stack_here.IS_REAL:
        pytest.skip("of the plain-Python afw; test_stack_real.py is of the stack's")
    with afw.install():
        patch = pytest.MonkeyPatch()
        # The one conversion that needs astshim; all exposures here have this WCS.
        patch.setattr(SkyProjection, "to_legacy", lambda self: afw.SkyWcs(make_wcs()))
        yield
        patch.undo()


@pytest.fixture(scope="module")
def pair():
    return make_pair(n_transients=4, signal_to_noise=60, noise=1.0)


def test_exposure_there_and_back(pair):
    before = fingerprint(pair.science)
    there = exposure_to_afw(pair.science)
    assert there.photoCalib.getCalibrationMean() == pytest.approx(NJY)
    assert there.filter.bandLabel == pair.science.band
    assert (there.getX0(), there.getY0()) == (pair.science.bbox.x.start, pair.science.bbox.y.start)
    back = visit_image_from_afw(there, name="science")
    np.testing.assert_array_equal(back.image.array, pair.science.image.array)
    np.testing.assert_array_equal(back.variance.array, pair.science.variance.array)
    for name in pair.science.mask.schema.names:
        np.testing.assert_array_equal(back.mask.get(name), pair.science.mask.get(name))
    there.image.array[...] = 0
    assert fingerprint(pair.science) == before
    x, y = pair.science.bbox.x.center, pair.science.bbox.y.center
    ours, theirs = (e.psf.compute_kernel_image(x=x, y=y).array for e in (pair.science, back))
    np.testing.assert_allclose(theirs, ours / ours.sum(), atol=1e-7)
    assert (
        back.sky_projection.pixel_to_sky(x=3.0, y=4.0).separation(
            pair.science.sky_projection.pixel_to_sky(x=3.0, y=4.0)
        )
        < 1e-6 * u.arcsec
    )


def test_masks_have_their_names_there():
    science, _ = make_scene(sigma=2.0)
    for name in ("SAT", "CR", "INTRP", "NO_DATA", "SAT_TEMPLATE"):
        science.mask.addMaskPlane(name)
    planes = {"SAT": "SATURATED", "CR": "COSMIC_RAY", "INTRP": "INTERPOLATED", "EDGE": "DETECTION_EDGE"}
    for i, name in enumerate(planes):
        science.mask.array[:, 10 * i] |= science.mask.getPlaneBitMask(name)
    science.mask.addMaskPlane("OF_THIS_CAMERA")
    science.mask.array[:, 50] |= science.mask.getPlaneBitMask("OF_THIS_CAMERA")
    mask = visit_image_from_afw(science, name="science").mask
    for i, new in enumerate(planes.values()):
        assert mask.get(new)[:, 10 * i].all() and mask.get(new).sum() == len(mask.array)
    assert "OF_THIS_CAMERA" not in mask.schema.names


class WideningPsf(afw.GaussianPsf):
    """A Gaussian whose width grows from left to right."""

    def computeKernelImage(self, position=None):
        position = position or afw.Point2D(50.0, 50.0)
        return afw.GaussianPsf(25, 25, 2.0 + 0.004 * position.x).computeKernelImage()


def test_varying_psf_there_and_back():
    from lsst.images import Box

    box = Box.factory[40:240, 100:300]
    from lsst.twinkles.diffim.adapters.psfs import psf_from_grid, sample_psf

    truth = WideningPsf(25, 25, 2.0)
    grid = sample_psf(AfwPsf(truth, box), box)
    back = psf_to_afw(psf_from_grid(grid, box, order=3), box)
    assert isinstance(back, afw.KernelPsf) and back.getKernel().isSpatiallyVarying()
    for x, y in ((100.0, 40.0), (180.0, 200.0), (299.0, 239.0)):
        expected = truth.computeKernelImage(afw.Point2D(x, y)).array
        found = back.computeKernelImage(afw.Point2D(x, y))
        assert (found.getX0(), found.getY0()) == (-12, -12)
        np.testing.assert_allclose(found.array, expected, atol=2e-4 * expected.max())
    assert psf_to_afw(AfwPsf(truth, box), box) is truth


def make_task(*, bridged, measure=False):
    config = ImageDifferenceTask.ConfigClass()
    config.doScaleDiffimVariance = False
    # The stack's task is told of all sources, and four of these 32 are transients.
    config.raiseOnBadSubtractionRatio = not bridged
    if bridged:
        config.subtract.retarget(stack.StackSubtractTask)
        config.subtract.subtractImages.retarget(stack.AlardLuptonSubtractTask)
        there = config.subtract.subtractImages
        there.restrictKernelEdgeSources = False
        there.doScaleVariance = False
        there.doSubtractBackground = True
        there.sourceSelector.signalToNoise.maximum = None
    if measure:
        config.measurement.retarget(stack.StackDetectAndMeasureTask)
        config.measurement.detectAndMeasure.retarget(stack.DetectAndMeasureTask)
        config.measurement.detectAndMeasure.doSubtractBackground = False
    return ImageDifferenceTask(config=config)


def test_subtraction_through_the_stack(pair):
    """The stack's task in the subtract stage, whitening included."""
    before = fingerprint(pair.science), fingerprint(pair.template)
    task = make_task(bridged=True)
    bridged = task.run(pair.science, pair.template)
    assert (fingerprint(pair.science), fingerprint(pair.template)) == before
    plain = make_task(bridged=False).run(pair.science, pair.template)
    ours, theirs = plain.subtractedExposure, bridged.subtractedExposure
    assert type(ours) is type(theirs) and ours.unit == theirs.unit and ours.bbox == theirs.bbox
    # The stars differ by how they were chosen, and the kernel with them.
    noise = np.sqrt(np.median(ours.variance.array))
    far = np.s_[20:-20, 20:-20]
    assert (ours.image.array - theirs.image.array)[far].std() < 0.2 * noise
    np.testing.assert_allclose(theirs.variance.array[far], ours.variance.array[far], rtol=0.05)
    assert theirs.photometric_scaling is not None and theirs.kernel is not None
    assert len(bridged.diaSources) == len(plain.diaSources) == 4
    a, b = (np.sort(r.diaSources["psfFlux"]) for r in (plain, bridged))
    np.testing.assert_allclose(b, a, rtol=0.02)
    assert task.getFullMetadata()["imageDifference:subtract"]["convolvedExposure"] == "Template"


def test_the_difference_can_be_written(pair, tmp_path):
    from lsst.images import DifferenceImage

    difference = make_task(bridged=True).run(pair.science, pair.template).subtractedExposure
    difference.write(tmp_path / "difference.fits")
    back = DifferenceImage.read(tmp_path / "difference.fits")
    np.testing.assert_allclose(back.image.array, difference.image.array, atol=1e-3)
    x, y = back.bbox.x.center, back.bbox.y.center
    np.testing.assert_allclose(
        back.psf.compute_kernel_image(x=x, y=y).array,
        difference.psf.compute_kernel_image(x=x, y=y).array,
        atol=1e-6,
    )


def test_stars_that_are_given_are_used(pair):
    from astropy.table import Table

    task = make_task(bridged=True)
    stars = Table(
        pair.stars[:12, :2] + [pair.science.bbox.x.start, pair.science.bbox.y.start], names=["x", "y"]
    )
    result = task.subtract.run(pair.template, pair.science, sources=stars)
    for row in result.kernelSources:
        assert np.hypot(stars["x"] - row["x"], stars["y"] - row["y"]).min() < 1.0
    assert 3 <= len(result.kernelSources) <= 12
    assert isinstance(result.backgroundModel, ChebyshevField)


def test_measurement_through_the_stack(pair):
    plain = make_task(bridged=False).run(pair.science, pair.template)
    bridged = make_task(bridged=False, measure=True).run(pair.science, pair.template, idFactory=1000)
    table = bridged.diaSources
    assert len(table) == len(plain.diaSources) == 4
    np.testing.assert_array_equal(table["diaSourceId"], np.arange(1000, 1004))
    order = np.argsort(table["base_SdssCentroid_x"])
    expected = plain.diaSources[np.argsort(plain.diaSources["x"])]
    np.testing.assert_allclose(table["base_SdssCentroid_x"][order], expected["x"], atol=0.02)
    np.testing.assert_allclose(table["base_PsfFlux_instFlux"][order] * NJY, expected["psfFlux"], rtol=0.01)
    assert bridged.subtractedExposure.mask.get("DETECTED").any()


def test_without_the_stack_the_place_is_held():
    config = stack.StackSubtractTask.ConfigClass()
    task = config.subtractImages.target(config=config.subtractImages.value)
    with pytest.raises(NotImplementedError, match="not set up"):
        task.run()


# ---------------------------------------------------------------------------------------- releases up to v25


class OldWarper:
    def warpExposure(self, wcs, exposure, destBBox):
        assert exposure.getBBox().contains(destBBox)
        return exposure[destBBox].clone()


class OldSubtractConfig(Config):
    pass


class OldSubtractTask(Task):
    """What is looked at of ``ImagePsfMatchTask``."""

    ConfigClass = OldSubtractConfig
    _DefaultName = "imagePsfMatch"
    _warper = OldWarper()

    def getSelectSources(self, exposure):
        return "sources of the stack"

    def subtractExposures(self, **kwargs):
        raise AssertionError("the stack's subtraction is not wanted")


class OldConfig(Config):
    doSubtract = Field(doc="Subtract?", dtype=bool, default=True)
    doDecorrelation = Field(doc="Whiten?", dtype=bool, default=True)
    doWriteMatchedExp = Field(doc="Write?", dtype=bool, default=False)
    convolveTemplate = Field(doc="Which?", dtype=bool, default=True)
    subtract = ConfigurableField(doc="Subtraction.", target=OldSubtractTask)
    getTemplate = ConfigurableField(doc="Template.", target=OldSubtractTask)


class OldTask(Task):
    """What is looked at of the stack's ``ImageDifferenceTask``."""

    ConfigClass = OldConfig
    _DefaultName = "imageDifference"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.makeSubtask("subtract")

    def run(self, exposure, templateExposure, sources=None):
        assert not self.config.doDecorrelation, "it would whiten twice"
        return self.subtract.subtractExposures(
            templateExposure=templateExposure,
            scienceExposure=exposure,
            candidateList=sources,
            convolveTemplate=self.config.convolveTemplate,
            doWarping=True,
        )


@pytest.fixture
def old_task(monkeypatch):
    monkeypatch.setattr(afw, "WarpedPsf", lambda psf, transform: psf, raising=False)
    import lsst.afw.geom
    import lsst.meas.algorithms

    monkeypatch.setattr(lsst.meas.algorithms, "WarpedPsf", afw.WarpedPsf, raising=False)
    monkeypatch.setattr(lsst.afw.geom, "makeWcsPairTransform", lambda a, b: None, raising=False)
    return release_25.make_twinkles_classes(OldTask, OldConfig)


@pytest.mark.parametrize("given", [True, False])
def test_old_task_with_our_subtraction(old_task, given):
    task_class, config_class = old_task
    assert issubclass(task_class, OldTask) and issubclass(config_class, OldConfig)
    assert task_class.ConfigClass is config_class
    config = config_class()
    assert config.doWriteMatchedExp and config.twinklesSubtract.makeKernel.kernel.name == "zogy"
    config.twinklesSubtract.restrictKernelEdgeSources = False
    task = task_class(config=config)
    assert task.subtract.getSelectSources(None) == "sources of the stack"
    science, sources = make_scene(sigma=2.4)
    template, _ = make_scene(sigma=2.8, noise_seed=7, border=20)
    result = task.run(science, template, list(sources) if given else None)
    good = blank(science) & blank(result.subtractedExposure)
    assert result.subtractedExposure.image.array[good].std() == pytest.approx(np.sqrt(2), rel=0.04)
    assert result.matchedExposure.getBBox() == science.getBBox() == result.warpedExposure.getBBox()
    task.getFullMetadata()


def test_old_task_is_not_there():
    with pytest.raises(ImportError, match="after v25"):
        from lsst.twinkles.diffim.stack.release_25 import TwinklesImageDifferenceTask
    with pytest.raises(ImportError, match="after v25"):
        from lsst.twinkles.diffim.stack import TwinklesImageDifferenceTask  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name"):
        from lsst.twinkles.diffim.stack import NothingTask  # noqa: F401


def test_old_task_is_found_in_the_package_where_it_is(monkeypatch):
    made = dict.fromkeys(("TwinklesImageDifferenceTask", "TwinklesImageDifferenceConfig"), OldTask)
    monkeypatch.setattr(release_25, "_classes", lambda: made)
    assert stack.TwinklesImageDifferenceTask is stack.TwinklesImageDifferenceConfig is OldTask
