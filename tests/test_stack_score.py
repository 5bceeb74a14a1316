"""Score images, and detection on them, in the place of ip_diffim's; afw is that of ``stack_here``."""

import numpy as np
import pytest
import stack_here as afw
from lsst.pipe.base import InvalidQuantumError, Struct
from scipy.ndimage import gaussian_filter1d
from stack_scenes import X0, Y0, blank, make_scene, make_subtract_task
from test_stack_detect import combine, make_difference, match

from lsst.twinkles.diffim.stack import (
    AlardLuptonPreconvolveSubtractTask,
    AlardLuptonSubtractTask,
    DetectAndMeasureScoreTask,
    DetectAndMeasureTask,
)

SCIENCE, TEMPLATE = 2.4, 2.0  # PSF widths
CENTRE = afw.Point2D(X0 + 128.0, Y0 + 128.0)


@pytest.fixture(autouse=True, scope="module")
def stack():
    with afw.install():
        yield


def subtract(kind, **values):
    science, sources = make_scene(sigma=SCIENCE)
    template, _ = make_scene(sigma=TEMPLATE, noise_seed=7, border=20)
    return make_subtract_task(kind, **values).run(template, science, sources), science


@pytest.fixture(scope="module")
def both():
    score, science = subtract(AlardLuptonPreconvolveSubtractTask)
    return score, subtract(AlardLuptonSubtractTask)[0], science


def slow_correlation(exposure, x, y):
    """The correlation with the PSF at one pixel, and its variance, as sums."""
    stamp = exposure.getPsf().computeKernelImage(afw.Point2D(x, y)).array
    half = stamp.shape[0] // 2
    square = np.s_[y - Y0 - half : y - Y0 + half + 1, x - X0 - half : x - X0 + half + 1]
    image, variance = exposure.image.array[square], exposure.variance.array[square]
    return float((stamp * image).sum()), float((stamp**2 * variance).sum())


def test_score_is_the_difference_seen_through_its_psf(both):
    result, plain, science = both
    score, difference = result.scoreExposure, plain.difference
    for x, y in ((X0 + 60, Y0 + 70), (X0 + 128, Y0 + 128), (X0 + 190, Y0 + 100)):
        value, variance = slow_correlation(difference, x, y)
        assert score.image.array[y - Y0, x - X0] == pytest.approx(value, abs=0.01 * np.sqrt(variance))
        assert score.variance.array[y - Y0, x - X0] == pytest.approx(variance, rel=0.01)
    significance = (score.image.array / np.sqrt(score.variance.array))[blank(score)]
    assert significance.std() == pytest.approx(1.0, abs=0.05)
    assert np.isfinite(score.image.array).all() and score.getWcs() == science.getWcs()


def test_what_was_subtracted_from_what_and_the_kernel_between_them(both):
    result, _, science = both
    # Stars of template and science exposure, through kernel and PSF, have the same profile.
    kernel = afw.ImageD(result.psfMatchingKernel.getDimensions())
    result.psfMatchingKernel.computeImage(kernel, False, CENTRE.x, CENTRE.y)
    _, x = np.mgrid[-40:41, -40:41]
    size = kernel.array.shape[0] // 2
    width2 = (
        (kernel.array * (x**2)[40 - size : 41 + size, 40 - size : 41 + size]).sum()
    ) / kernel.array.sum()
    assert width2 == pytest.approx(2 * SCIENCE**2 - TEMPLATE**2, rel=0.05)
    inner = np.s_[30:-30, 30:-30]
    left = (result.matchedScience.image.array - result.matchedTemplate.image.array)[inner]
    assert np.abs(left).max() < 5.0 * np.sqrt(result.scoreExposure.variance.array.max())
    assert result.matchedScience.image.array.max() < 0.6 * science.image.array.max()


def run_score(scene, score, **values):
    config = DetectAndMeasureScoreTask.ConfigClass()
    config.doSubtractBackground = False
    config.badSourceFlags = ["base_PixelFlags_flag_offimage"]
    config.update(**values)
    task = DetectAndMeasureScoreTask(config=config)
    return task.run(scene.science, scene.template, scene.difference, score, scene.sources)


@pytest.mark.parametrize("sign", [1, -1])
def test_transients_are_detected_on_the_score(sign):
    scene = make_difference(sign=sign)
    task = AlardLuptonPreconvolveSubtractTask()
    score = task._convolveExposure(scene.difference, scene.difference.getPsf()._kernel)
    sources = run_score(scene, score).diaSources
    found = match(sources, scene.truth)
    assert len(sources) == len(scene.truth) == len(set(found.tolist()))
    truth = sign * scene.truth.getPsfInstFlux()[found]
    np.testing.assert_allclose(sources.getPsfInstFlux(), truth, rtol=0.05)
    # The difference alone would give the same.
    config = DetectAndMeasureTask.ConfigClass()
    config.doSubtractBackground = False
    config.badSourceFlags = ["base_PixelFlags_flag_offimage"]
    plain = DetectAndMeasureTask(config=config).run(
        scene.science, scene.template, scene.difference, scene.sources
    )
    assert len(plain.diaSources) == len(sources)


def test_the_score_decides():
    scene = make_difference()
    score = scene.difference.clone()
    score.image.array[...] = 0.0
    score.image.array[100, 90] = 9.0
    score.variance.array[...] = 1.0
    (source,) = run_score(scene, score).diaSources
    assert np.hypot(source.getX() - X0 - 90, source.getY() - Y0 - 100) < 3.0


def test_a_background_is_taken_from_the_score_too():
    scene = make_difference()
    task = AlardLuptonPreconvolveSubtractTask()
    scene = Struct(**(scene.getDict() | {"difference": combine((1, scene.difference))}))
    scene.difference.image.array[...] += 3.0
    score = task._convolveExposure(scene.difference, scene.difference.getPsf()._kernel)
    sources = run_score(scene, score, doSubtractBackground=True).diaSources
    match(sources, scene.truth)
    assert len(sources) == len(scene.truth)


def test_unknown_flags():
    config = DetectAndMeasureScoreTask.ConfigClass()
    config.badSourceFlags = ["no_such_flag"]
    with pytest.raises(InvalidQuantumError, match="no_such_flag"):
        DetectAndMeasureScoreTask(config=config)


def test_cosmic_rays_and_streaks_without_the_stacks_tasks():
    scene = make_difference(n=2)
    difference = scene.difference
    ray = np.zeros(difference.image.array.shape, bool)
    ray[150, 100:105] = ray[60:65, 200] = True
    difference.image.array[ray] += 1234.0
    across = np.exp(-0.5 * ((np.arange(256) - 21) / SCIENCE) ** 2)
    along = gaussian_filter1d(((np.arange(256) >= 30) & (np.arange(256) < 230)) * 1.0, SCIENCE)
    difference.image.array[...] += (20.0 * across[:, None] * along).astype("f4")
    config = DetectAndMeasureTask.ConfigClass()
    config.doSubtractBackground = False
    config.badSourceFlags = ["base_PixelFlags_flag_offimage"]
    config.writeStreakInfo = True
    result = DetectAndMeasureTask(config=config).run(scene.science, scene.template, difference)
    mask = result.subtractedMeasuredExposure.mask
    planes = {name: (mask.array & mask.getPlaneBitMask(name)) != 0 for name in ("CR", "STREAK")}
    np.testing.assert_array_equal(planes["CR"], ray)
    assert planes["STREAK"][20:23, 30:230].mean() > 0.95 and not planes["STREAK"][45:].any()
    assert not (difference.mask.array & difference.mask.getPlaneBitMask("CR")).any()


def test_trails_have_their_columns():
    scene = make_difference(n=3)
    length, angle, flux = 16.0, 0.5, 4000.0
    steps = np.linspace(-0.5, 0.5, 60) * length
    y, x = np.mgrid[:256, :256]
    for step in steps:
        r2 = (x - 130 - step * np.cos(angle)) ** 2 + (y - 40 - step * np.sin(angle)) ** 2
        star = np.exp(-0.5 * r2 / SCIENCE**2) / (2 * np.pi * SCIENCE**2)
        for exposure in (scene.science, scene.difference):
            exposure.image.array[...] += flux / len(steps) * star
    config = DetectAndMeasureTask.ConfigClass()
    config.doSubtractBackground = config.doMaskStreaks = config.doFindCosmicRays = False
    config.raiseOnBadSubtractionRatio = False
    config.badSourceFlags = ["base_PixelFlags_flag_offimage"]
    sources = DetectAndMeasureTask(config=config).run(scene.science, scene.template, scene.difference)
    sources = sources.diaSources
    name = "ext_trailedSources_Naive"
    trailed = ~sources[f"{name}_flag"]
    near = np.hypot(sources.getX() - X0 - 130, sources.getY() - Y0 - 40) < 12
    assert trailed.any() and (trailed & near).sum() == trailed.sum()
    row = int(np.flatnonzero(trailed)[0])
    values = {c: sources[f"{name}_{c}"][row] for c in ("x0", "y0", "x1", "y1", "length", "angle", "flux")}
    assert values["length"] == pytest.approx(length, rel=0.1)
    assert np.mod(values["angle"] - angle + np.pi / 2, np.pi) - np.pi / 2 == pytest.approx(0.0, abs=0.05)
    assert values["flux"] == pytest.approx(flux, rel=0.1)
    assert (values["x0"] + values["x1"]) / 2 == pytest.approx(X0 + 130, abs=0.5)
    assert (values["y0"] + values["y1"]) / 2 == pytest.approx(Y0 + 40, abs=0.5)
    ends = np.hypot(values["x1"] - values["x0"], values["y1"] - values["y0"])
    assert ends == pytest.approx(values["length"], rel=1e-6)
