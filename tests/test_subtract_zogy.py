"""The subtraction task with kernel.name="zogy": on simulated pairs, on pairs whose every pixel is known."""

import numpy as np
import pytest
from lsst.images import DifferenceImage
from lsst.pex.config import FieldValidationError
from small_pairs import FLUX_SCALE, SHAPE, away_from, draw, fingerprint, gaussian_fluxes, make_pair

from lsst.twinkles.diffim.adapters.kernels import evaluate_kernel
from lsst.twinkles.diffim.adapters.masks import bad_pixels
from lsst.twinkles.diffim.adapters.psfs import psf_from_grid, sample_psf
from lsst.twinkles.diffim.algorithms.measure.psf_fit import measure_forced_fluxes
from lsst.twinkles.diffim.algorithms.psf_grid import PsfGrid
from lsst.twinkles.diffim.simulation.pairs import simulate_pair
from lsst.twinkles.diffim.tasks.decorrelate import DecorrelateTask
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceTask
from lsst.twinkles.diffim.tasks.subtract import AlardLuptonSubtractConfig, AlardLuptonSubtractTask

NARROW, WIDE = 1.6, 2.2
UNUSABLE = ("NO_DATA", "BAD", "SAT", "SAT_TEMPLATE", "EDGE")


def make_task(**values):
    config = AlardLuptonSubtractConfig()
    config.kernel.name = "zogy"
    for name, value in values.items():
        setattr(config, name, value)
    return AlardLuptonSubtractTask(config=config)


@pytest.fixture(scope="module", params=["std", "rev", "eq"])
def sky(request):
    """A simulated pair (Kolmogorov PSFs that vary, a registration error, a sky with a slope)."""
    pair = simulate_pair(request.param, seed=1, nx=560, ny=540, n_transients=60)
    before = fingerprint(pair.science), fingerprint(pair.template)
    task = make_task()
    result = task.run(pair.template, pair.science)
    return {"pair": pair, "task": task, "result": result, "before": before}


def blank_pixels(sky):
    """Pixels far from everything that changed, without light of sources to speak of, and not masked."""
    pair, mask = sky["pair"], sky["result"].difference.mask
    blank = away_from(np.column_stack([pair.truth["x"], pair.truth["y"]]), mask.bbox.shape, 15)
    for visit in (pair.science_visit, pair.template_visit):
        variance = visit.true_variance
        blank &= variance < 1.03 * np.median(variance)
    return blank & ~bad_pixels(mask, UNUSABLE)


def psf_fluxes(difference, x, y, half=12):
    """PSF fluxes and errors at positions, for white noise of the variance that is claimed."""
    bad = bad_pixels(difference.mask, ("NO_DATA", "BAD", "SAT", "SAT_TEMPLATE"))
    weight = np.where(bad, 0.0, 1.0 / difference.variance.array)
    psf = sample_psf(difference.psf, difference.bbox, grid=4)
    return measure_forced_fluxes(difference.image.array, weight, psf, x=x, y=y, half=half)


def correlation(image, good, dy, dx):
    a, b = image[dy:, dx:], image[: image.shape[0] - dy, : image.shape[1] - dx]
    both = good[dy:, dx:] & good[: image.shape[0] - dy, : image.shape[1] - dx]
    return float((a * b)[both].mean() / (image**2)[good].mean())


def test_noise_is_white_and_as_claimed(sky):
    difference, good = sky["result"].difference, blank_pixels(sky)
    pulls = difference.image.array / np.sqrt(difference.variance.array)
    n = good.sum()
    assert n > 80_000 and sky["result"].whitened is True
    # 100 000 pixels: 0.3 percent on a correlation, 0.5 percent on the variance, and sources below the limit.
    assert pulls[good].var() == pytest.approx(1.0, abs=0.025)
    for lag in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        assert abs(correlation(pulls, good, *lag)) < 0.016, lag
    # And of the sum of two images, not less.
    pair = sky["pair"]
    truth = pair.science_visit.true_variance + pair.template_visit.true_variance / pair.scale**2
    ratio = difference.variance.array[good].mean() / truth[good].mean()
    assert ratio == pytest.approx(1.0, abs=0.03)


def test_blank_sky_has_no_flux_but_noise(sky):
    difference, good = sky["result"].difference, blank_pixels(sky)
    y, x = (a.ravel() for a in np.mgrid[20:520:11, 20:540:11])
    keep = good[y, x]
    fluxes = psf_fluxes(difference, x[keep].astype(float), y[keep].astype(float))
    pulls = fluxes.flux / fluxes.error
    assert len(pulls) > 700
    assert pulls.std() == pytest.approx(1.0, abs=4 * (2 * len(pulls)) ** -0.5 + 0.02)
    assert abs(pulls.mean()) < 4 * len(pulls) ** -0.5 + 0.02


def test_fluxes_of_transients_are_true(sky):
    truth = sky["pair"].truth
    planted = truth[truth["kind"] == "transient"]
    difference = sky["result"].difference
    fluxes = psf_fluxes(difference, np.asarray(planted["x"]), np.asarray(planted["y"]))
    good = fluxes.n_pixels == 25**2  # none masked
    true, flux, error = np.asarray(planted["difference_flux"])[good], fluxes.flux[good], fluxes.error[good]
    assert good.sum() >= 40 and (true < 0).sum() >= 5
    pulls = (flux - true) / error
    # The wings of the brightest are known to a percent.
    assert np.median(np.abs(pulls)) == pytest.approx(0.6745, abs=0.35) and np.abs(pulls).max() < 5.0
    scale = (flux * true / error**2).sum() / (true**2 / error**2).sum()
    spread = (true**2 / error**2).sum() ** -0.5
    assert spread < 0.01
    assert scale == pytest.approx(1.0, abs=3 * spread + 0.012)
    # The error that is claimed is nearly the best there is.
    best = np.asarray(planted["flux_error"])[good]
    assert np.median(error / best) == pytest.approx(1.0, abs=0.05)


def test_static_stars_are_gone(sky):
    stars, difference = sky["pair"].stars, sky["result"].difference
    inside = (stars["x"] > 20) & (stars["y"] > 20) & (stars["x"] < 540) & (stars["y"] < 520)
    changed = np.column_stack([sky["pair"].truth["x"], sky["pair"].truth["y"]])
    place = np.column_stack([stars["x"], stars["y"]])
    alone = np.array([np.hypot(*(changed - p).T).min() > 15 for p in place])
    use = inside & alone
    fluxes = psf_fluxes(difference, *place[use].T)
    assert use.sum() >= 8
    error = np.hypot(fluxes.error, 0.005 * np.asarray(stars["flux"])[use])
    assert np.abs(fluxes.flux / error).max() < 5


def test_sky_with_a_slope_is_gone(sky):
    good, difference = blank_pixels(sky), sky["result"].difference
    noise = np.sqrt(np.median(difference.variance.array))
    for rows in (slice(0, 270), slice(270, 540)):
        for columns in (slice(0, 280), slice(280, 560)):
            part = difference.image.array[rows, columns][good[rows, columns]]
            assert abs(np.mean(part)) < 0.03 * noise
    model = sky["result"].backgroundModel.render().array
    # The sky of the science image; of 72 cells of 64 pixels, in which faint galaxies are.
    error = (model - sky["pair"].science_visit.sky)[good]
    assert np.ptp(sky["pair"].science_visit.sky) > 10 * error.std()
    assert abs(error).max() < 0.25 * noise


def test_kernel_sum_is_the_flux_scale(sky):
    pair, metadata, result = sky["pair"], sky["task"].metadata, sky["result"]
    assert metadata["spatialKernelSum"] * pair.scale == pytest.approx(1.0, abs=0.015)
    # The kernel of the matched template has the direction that the PSFs allow.
    convolved = result.convolvedTemplate
    assert convolved is (pair.case != "rev")
    assert metadata["convolvedExposure"] == ("Template" if convolved else "Science")
    assert metadata["ALBasisMode"] == "correction"
    kernel = evaluate_kernel(
        result.psfMatchingKernel,
        result.difference.bbox,
        x=np.array([50.0, 500.0]),
        y=np.array([500.0, 300.0]),
    )
    expected = metadata["spatialKernelSum"] if convolved else 1 / metadata["spatialKernelSum"]
    np.testing.assert_allclose(kernel.sum(axis=(1, 2)), expected, rtol=2e-3)


def test_stars_that_fit_the_kernel(sky):
    sources, truth = sky["result"].kernelSources, sky["pair"].truth
    used = sources["used"]
    # Not those that changed: many more here than in a real field.
    strong = truth[truth["snr"] > 33]
    changed = np.array([np.hypot(strong["x"] - r["x"], strong["y"] - r["y"]).min() < 3 for r in sources])
    assert changed.sum() >= 2 and not used[changed].any()
    assert used.sum() >= 10 and used[~changed].mean() > 0.4  # fainter transients are among them
    assert np.median(sources["chi2"][used]) == pytest.approx(0.9, abs=0.25)
    assert np.abs(sources["fluxResidual"]).max() < 1e4 and sources["signalToNoise"].min() >= 1.0
    assert sky["task"].metadata["nKernelSourcesUsed"] == used.sum()


def test_inputs_are_not_modified(sky):
    assert (fingerprint(sky["pair"].science), fingerprint(sky["pair"].template)) == sky["before"]


def test_difference_is_written_and_read_back(sky, tmp_path):
    difference = sky["result"].difference
    path = str(tmp_path / "difference.fits")
    difference.write(path)
    back = DifferenceImage.read(path)
    np.testing.assert_array_equal(back.image.array, difference.image.array)
    place = {"x": np.array([20.0, 500.0]), "y": np.array([450.0, 40.0])}
    kernels = [evaluate_kernel(d.kernel, difference.bbox, **place) for d in (back, difference)]
    np.testing.assert_allclose(*kernels, atol=1e-9)
    centre = {"x": 270, "y": 250}
    psfs = [d.psf.compute_kernel_image(**centre).array for d in (back, difference)]
    np.testing.assert_allclose(*psfs, atol=1e-9)
    assert psfs[0].sum() == pytest.approx(1.0, abs=1e-6)
    sky["result"].matchedTemplate.write(str(tmp_path / "matched.fits"))


@pytest.mark.parametrize("widths", [(WIDE, NARROW), (NARROW, WIDE)])
def test_matched_template(widths):
    pair = make_pair(science_sigma=widths[0], template_sigma=widths[1])
    result = make_task().run(pair.template, pair.science)
    matched = result.matchedTemplate
    convolved = widths[0] > widths[1]
    assert matched.metadata["psfMatched"] is convolved
    assert matched.psf is (pair.science if convolved else pair.template).psf
    inside = [p for p in pair.stars if 16 < p[0] < 324 and 16 < p[1] < 284 and p[2] > 2e4]
    found = gaussian_fluxes(matched.image.array - pair.sky, [p[:2] for p in inside], max(widths))
    assert len(inside) > 3
    np.testing.assert_allclose(found / [p[2] for p in inside], 1.0, atol=0.05)
    # Its pixels scatter as its variance claims.
    blank = away_from(pair.stars[:, :2], SHAPE, 20) & ~bad_pixels(matched.mask, ["EDGE"])
    pulls = ((matched.image.array - pair.sky) / np.sqrt(matched.variance.array))[blank]
    assert pulls.std() == pytest.approx(1.0, abs=0.08)  # correlated


def saturate(exposure, x, y, level=30_000.0):
    """Clip a bright star, as a full well does, with more light beside it."""
    image = exposure.image.array
    plane = exposure.mask.get("SATURATED") | (image > level)
    exposure.mask.set("SATURATED", plane)
    image[plane] = level
    assert plane[round(y), round(x)]


def flawed_pair(widths, scale=1.0):
    """A pair with holes, a bad pixel, a star without core, and one that the sharper image has saturated."""
    pair = make_pair(science_sigma=widths[0], template_sigma=widths[1])
    for exposure, sigma, factor in (
        (pair.science, widths[0], 1.0),
        (pair.template, widths[1], 1 / FLUX_SCALE),
    ):
        light = factor * draw(SHAPE, [(230.0, 60.0, 8e5), (120.0, 245.0, 3e5)], sigma)
        exposure.image.array[...] += light
        exposure.variance.array[...] += light
    saturate(pair.template if widths[1] < widths[0] else pair.science, 230.0, 60.0)
    wider = pair.science if widths[0] > widths[1] else pair.template
    for exposure, cut in (
        (pair.science, np.s_[100:110, 100:110]),
        (pair.template, np.s_[200:210, 60:80]),
        (wider, np.s_[243:248, 118:123]),  # the core of a bright star
    ):
        plane = exposure.mask.get("NO_DATA").copy()
        plane[cut] = True
        exposure.mask.set("NO_DATA", plane)
        exposure.image.array[cut] = exposure.variance.array[cut] = np.nan
    plane = np.zeros(SHAPE, bool)
    plane[150, 300] = True
    pair.template.mask.set("BAD", plane)
    pair.template.image.array[150, 300] = -1e5
    pair.template.image.array[...] *= scale
    pair.template.variance.array[...] *= scale**2
    return pair


@pytest.fixture(scope="module", params=["template sharper", "science sharper"])
def flawed(request):
    widths = (WIDE, NARROW) if request.param == "template sharper" else (NARROW, WIDE)
    pair = flawed_pair(widths)
    before = fingerprint(pair.science), fingerprint(pair.template)
    result = make_task().run(pair.template, pair.science)
    return {"pair": pair, "result": result, "widths": widths, "before": before}


def test_holes_and_bad_pixels_are_masked_and_do_not_leak(flawed):
    result, pair = flawed["result"], flawed["pair"]
    assert (fingerprint(pair.science), fingerprint(pair.template)) == flawed["before"]
    for exposure in (result.difference, result.matchedTemplate):
        assert np.isfinite(exposure.image.array).all() and (exposure.variance.array > 0).all()
    mask, image = result.difference.mask, result.difference.image.array
    for cut in (np.s_[100:110, 100:110], np.s_[200:210, 60:80], np.s_[243:248, 118:123]):
        assert mask.get("NO_DATA")[cut].all() and (image[cut] == 0).all()
    assert mask.get("BAD")[150, 300] and mask.get("NO_DATA").mean() < 0.02
    pulls = image / np.sqrt(result.difference.variance.array + result.excessVariance)
    good = ~bad_pixels(mask, UNUSABLE)
    for y, x in ((150, 300), (105, 105), (205, 70), (245, 120)):
        near = np.s_[y - 25 : y + 26, max(0, x - 25) : x + 26]
        assert np.abs(pulls[near][good[near]]).max() < 6


def test_light_of_saturated_pixels_is_masked_or_in_the_variance(flawed):
    result = flawed["result"]
    mask, excess = result.difference.mask, result.excessVariance
    plane = mask.get("SAT_TEMPLATE" if flawed["widths"][1] == NARROW else "SATURATED")
    other = mask.get("SATURATED" if flawed["widths"][1] == NARROW else "SAT_TEMPLATE")
    assert plane[60, 230] and not other.any()
    assert 30 < plane.sum() < 600 and not plane[:30].any() and not plane[:, :190].any()
    # What is left of the light where it is not masked is at most ten sigma.
    variance = result.difference.variance.array
    outside = ~plane & (excess > 0)
    assert outside.sum() > 50
    assert excess[outside].max() < 10.5**2 * np.median(variance) * 1.5
    assert excess[~plane][excess[~plane] > 0].min() < np.median(variance)
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]]
    assert not excess[np.hypot(u - 230, v - 60) > 40].any()
    ring = (np.hypot(u - 230, v - 60) < 40) & ~bad_pixels(mask, UNUSABLE)
    pulls = (result.difference.image.array / np.sqrt(variance + excess))[ring]
    assert np.abs(pulls).max() < 6 and pulls.std() < 1.2


def test_unit_of_the_template_changes_nothing(flawed):
    result = flawed["result"]
    pair = flawed_pair(flawed["widths"], scale=1000.0)
    again = make_task().run(pair.template, pair.science)
    noise = np.sqrt(np.median(result.difference.variance.array))
    shift = again.difference.image.array - result.difference.image.array
    assert np.abs(shift).max() < 0.1 * noise and shift.std() < 0.01 * noise
    np.testing.assert_allclose(again.difference.variance.array, result.difference.variance.array, rtol=1e-3)
    np.testing.assert_allclose(again.excessVariance, result.excessVariance, rtol=0.01, atol=0.1)
    different = (again.difference.mask.array != result.difference.mask.array).any(axis=-1)
    assert different.sum() < 5


def test_mode_is_of_no_account():
    pair = make_pair()
    results = [make_task(mode=mode).run(pair.template, pair.science) for mode in ("auto", "convolveScience")]
    np.testing.assert_array_equal(*(r.difference.image.array for r in results))


def test_the_whole_task_does_not_whiten_again(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("whitened twice")

    monkeypatch.setattr(DecorrelateTask, "run", refuse)
    config = ImageDifferenceTask.ConfigClass()
    config.subtract.kernel.name = "zogy"
    config.doScaleDiffimVariance = config.doDetection = config.doMeasurement = False
    assert config.doDecorrelation
    pair = flawed_pair((WIDE, NARROW))
    result = ImageDifferenceTask(config=config).run(pair.science, pair.template)
    difference = result.subtractedExposure
    alone = make_task().run(pair.template, pair.science)
    np.testing.assert_array_equal(difference.image.array, alone.difference.image.array)
    # Light of saturated pixels is part of the variance in the end.
    np.testing.assert_allclose(
        difference.variance.array, alone.difference.variance.array + alone.excessVariance, rtol=1e-6
    )
    assert (difference.variance.array > 1.01 * alone.difference.variance.array).any()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("correctionSize", 20, "correctionSize must be odd, got 20"),
        ("matchedKernelSize", 30, "matchedKernelSize must be odd"),
        ("psfSize", 40, "psfSize must be odd"),
        ("correctionDegrees", [2, 1], "needs 3 values, one for each width"),
    ],
)
def test_configurations_that_cannot_be(field, value, message):
    config = AlardLuptonSubtractConfig()
    config.kernel.name = "zogy"
    setattr(config.kernel["zogy"], field, value)
    with pytest.raises(FieldValidationError, match=message):
        config.validate()


def spoil_psf(exposure, sigma, seed):
    """Give an exposure a PSF as measured from few stars: of about the width, and noisy."""
    stamp = gaussian_stamp(31, sigma) + 1e-3 * np.random.default_rng(seed).normal(size=(31, 31))
    exposure.psf = psf_from_grid(PsfGrid.constant(stamp / stamp.sum()), exposure.bbox)


def gaussian_stamp(size, sigma):
    r = np.arange(size) - size // 2
    stamp = np.exp(-(r[:, None] ** 2 + r**2) / (2 * sigma**2))
    return stamp / stamp.sum()


def test_poor_psf_models_fall_back_to_alard_lupton(caplog):
    pair = make_pair(n_transients=6, seed=3)
    spoil_psf(pair.science, WIDE, 1)
    spoil_psf(pair.template, NARROW, 2)
    config = ImageDifferenceTask.ConfigClass()
    config.subtract.kernel.name = "zogy"
    task = ImageDifferenceTask(config=config)
    result = task.run(pair.science, pair.template)
    assert task.subtract.metadata["subtractMethod"] == "AL"
    assert "maxStarChi2" in caplog.text
    x, y = (np.asarray(result.diaSources[name], float) for name in ("x", "y"))
    near = [np.hypot(x - tx, y - ty).min() for tx, ty, _ in pair.transients]
    assert max(near) < 1.5
    assert len(x) <= len(near) + 2
    # With the limit out of reach it does what it was told, and the stars stay.
    config = ImageDifferenceTask.ConfigClass()
    config.subtract.kernel.name = "zogy"
    config.subtract.kernel["zogy"].maxStarChi2 = 1e9
    stubborn = ImageDifferenceTask(config=config)
    assert len(stubborn.run(pair.science, pair.template).diaSources) > len(x) + 5
    assert stubborn.subtract.metadata["subtractMethod"] == "zogy"


def test_good_psf_models_are_trusted(sky):
    assert sky["task"].metadata["subtractMethod"] == "zogy"
