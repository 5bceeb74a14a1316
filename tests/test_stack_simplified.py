"""Subtraction with a kernel that is there, in the place of ip_diffim's; afw is that of ``stack_here``."""

import numpy as np
import pytest
import stack_here as afw
from stack_scenes import make_scene, make_subtract_task

from lsst.twinkles.diffim.stack import AlardLuptonSubtractTask, SimplifiedSubtractTask

SCIENCE, TEMPLATE = 2.4, 2.0  # PSF widths


@pytest.fixture(autouse=True, scope="module")
def stack():
    with afw.install():
        yield


@pytest.fixture(scope="module")
def pair():
    science, sources = make_scene(sigma=SCIENCE)
    template, _ = make_scene(sigma=TEMPLATE, noise_seed=7, border=20)
    return template, science, sources


@pytest.fixture(scope="module")
def full(pair):
    return make_subtract_task(AlardLuptonSubtractTask).run(*pair)


def test_kernel_of_the_other_task_gives_its_difference(pair, full):
    """Pixel by pixel, to the rounding of single precision; what the stack's own test claims."""
    template, science, _ = pair
    task = make_subtract_task(SimplifiedSubtractTask)
    result = task.run(template, science, inputPsfMatchingKernel=full.psfMatchingKernel)
    scatter = float(np.sqrt(np.median(full.difference.variance.array)))
    np.testing.assert_allclose(
        result.difference.image.array, full.difference.image.array, atol=2e-3 * scatter
    )
    np.testing.assert_allclose(result.difference.variance.array, full.difference.variance.array, rtol=1e-4)
    np.testing.assert_array_equal(result.difference.mask.array, full.difference.mask.array)
    # The background between the two, fitted with a kernel but not part of it, is not in the template.
    smooth = result.matchedTemplate.image.array - full.matchedTemplate.image.array
    assert np.abs(np.diff(smooth, axis=0)).max() < 2e-3 * scatter and np.abs(smooth).max() < 0.1 * scatter
    centre = science.getBBox().getCenter()
    images = [r.difference.getPsf().computeKernelImage(centre).array for r in (result, full)]
    np.testing.assert_allclose(*images, atol=1e-6)
    assert result.backgroundModel is None and not hasattr(result, "kernelSources")
    assert task.metadata["convolvedExposure"] == "Template"


def test_kernel_of_the_science_exposure():
    """With the mode that it was made for."""
    wide, _ = make_scene(sigma=SCIENCE, noise_seed=7, border=20)
    narrow, sources = make_scene(sigma=TEMPLATE)
    other = make_subtract_task(AlardLuptonSubtractTask, mode="convolveScience").run(wide, narrow, sources)
    task = make_subtract_task(SimplifiedSubtractTask, mode="convolveScience")
    result = task.run(wide, narrow, inputPsfMatchingKernel=other.psfMatchingKernel)
    scatter = float(np.sqrt(np.median(other.difference.variance.array)))
    np.testing.assert_allclose(
        result.difference.image.array, other.difference.image.array, atol=2e-3 * scatter
    )


def test_without_a_kernel_stars_are_sought(pair, full):
    template, science, _ = pair
    task = make_subtract_task(SimplifiedSubtractTask, useExistingKernel=False)
    result = task.run(template, science)
    assert len(result.kernelSources) >= 3
    ratio = result.difference.image.array.std() / full.difference.image.array.std()
    assert ratio == pytest.approx(1.0, abs=0.05)


def test_kernel_that_cannot_be_used(pair):
    template, science, _ = pair
    task = make_subtract_task(SimplifiedSubtractTask)
    with pytest.raises(ValueError, match="asks for inputPsfMatchingKernel"):
        task.run(template, science)
    with pytest.raises(ValueError, match="cannot be used"):
        task.run(template, science, inputPsfMatchingKernel="kernel")


def test_connections_follow_the_configuration():
    config = SimplifiedSubtractTask.ConfigClass()
    for existing in (True, False):
        config.useExistingKernel = existing
        connections = config.connections.ConnectionsClass(config=config)
        assert "sources" not in connections.inputs
        assert ("inputPsfMatchingKernel" in connections.inputs) is existing
        assert ("psfMatchingKernel" in connections.outputs) is not existing
        assert ("kernelSources" in connections.outputs) is not existing
