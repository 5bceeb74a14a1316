"""The subtraction task: flux scale, sky, masks, kernel, metadata, refusals."""

import numpy as np
import pytest
from astropy.table import Table
from lsst.images import DifferenceImage
from lsst.images.convolution_kernels import ImageBasisConvolutionKernel
from small_pairs import (
    FLUX_SCALE,
    NJY,
    SHAPE,
    SKY_VARIANCE,
    away_from,
    draw,
    fingerprint,
    gaussian_fluxes,
    make_pair,
)

from lsst.twinkles.diffim.adapters.kernels import evaluate_kernel
from lsst.twinkles.diffim.adapters.masks import bad_pixels
from lsst.twinkles.diffim.tasks.errors import (
    InsufficientKernelSourcesError,
    NoKernelCandidatesError,
    UnusableExposureError,
)
from lsst.twinkles.diffim.tasks.subtract import AlardLuptonSubtractConfig, AlardLuptonSubtractTask

NARROW, WIDE = 1.6, 2.2
# Mode, widths of science and template, whether the template is convolved.
CASES = {
    "template": ("convolveTemplate", WIDE, NARROW, True),
    "science": ("convolveScience", NARROW, WIDE, False),
    "auto, template sharper": ("auto", WIDE, NARROW, True),
    "auto, science sharper": ("auto", NARROW, WIDE, False),
}


def make_task(**values):
    config = AlardLuptonSubtractConfig()
    config.kernel = "AL"
    for name, value in values.items():
        setattr(config, name, value)
    return AlardLuptonSubtractTask(config=config)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    mode, science_sigma, template_sigma, template_convolved = CASES[request.param]
    pair = make_pair(science_sigma=science_sigma, template_sigma=template_sigma, n_transients=12)
    task = make_task(mode=mode)
    before = fingerprint(pair.science), fingerprint(pair.template)
    result = task.run(template=pair.template, science=pair.science)
    return {
        "pair": pair,
        "task": task,
        "result": result,
        "sigma": max(science_sigma, template_sigma),
        "template_convolved": template_convolved,
        "before": before,
    }


def test_the_right_image_is_convolved(case):
    convolved = case["template_convolved"]
    result, metadata = case["result"], case["task"].metadata
    assert result.convolvedTemplate is convolved
    assert metadata["convolvedExposure"] == ("Template" if convolved else "Science")
    pair = case["pair"]
    assert result.difference.psf is (pair.science if convolved else pair.template).psf
    assert result.matchedTemplate.metadata["psfMatched"] is convolved


def test_inputs_are_not_modified(case):
    pair = case["pair"]
    assert (fingerprint(pair.science), fingerprint(pair.template)) == case["before"]


def test_kernel_sum_is_the_flux_scale(case):
    expected = FLUX_SCALE if case["template_convolved"] else 1 / FLUX_SCALE
    assert case["task"].metadata["spatialKernelSum"] == pytest.approx(
        expected, rel=0.01
    )  # 30 stars: 0.3 percent
    kernel = case["result"].psfMatchingKernel
    assert isinstance(kernel, ImageBasisConvolutionKernel)
    box = case["pair"].science.bbox
    x, y = np.array([0.0, 170.0, 339.0]), np.array([299.0, 150.0, 0.0])
    np.testing.assert_allclose(
        evaluate_kernel(kernel, box, x=x, y=y).sum(axis=(1, 2)),
        case["task"].metadata["spatialKernelSum"],
        rtol=1e-6,
    )


def test_kernel_takes_one_psf_to_the_other(case):
    box = case["pair"].science.bbox
    kernel = evaluate_kernel(case["result"].psfMatchingKernel, box, x=np.array([170.0]), y=np.array([150.0]))[
        0
    ]
    half = kernel.shape[0] // 2
    truth = draw(kernel.shape, [(half, half, kernel.sum())], np.sqrt(WIDE**2 - NARROW**2))
    # Seen through the PSF: what the kernel does beyond its frequencies is free.
    fourier = np.fft.rfft2(kernel - truth, s=(64, 64))
    psf = np.abs(np.fft.rfft2(draw((64, 64), [(32, 32, 1.0)], NARROW)))
    error = np.fft.irfft2(fourier * psf)
    assert np.abs(error).max() < 0.01 * draw((64, 64), [(32, 32, kernel.sum())], WIDE).max()


def test_fluxes_of_transients_are_those_of_the_science_image(case):
    pair, difference = case["pair"], case["result"].difference.image.array
    found = gaussian_fluxes(difference, pair.transients[:, :2], case["sigma"])
    # Signal-to-noise 30 each: 3.3 percent, and the noise is a little correlated.
    ratio = found / pair.transients[:, 2]
    assert len(ratio) >= 8 and (np.abs(ratio - 1) < 0.2).all()
    assert ratio.mean() == pytest.approx(1.0, abs=4 * 0.045 / np.sqrt(len(ratio)))


def test_stars_are_gone(case):
    pair, difference = case["pair"], case["result"].difference
    inside = [(x, y) for x, y, _ in pair.stars if 16 < x < SHAPE[1] - 16 and 16 < y < SHAPE[0] - 16]
    left = gaussian_fluxes(difference.image.array, inside, case["sigma"])
    fluxes = np.array([f for x, y, f in pair.stars if (x, y) in inside])
    # Photon noise of both images on top of that of the sky; 1 percent for what the kernel does not know.
    error = np.sqrt(4 * np.pi * case["sigma"] ** 2 * SKY_VARIANCE * 3 + 2.25 * fluxes + (0.01 * fluxes) ** 2)
    assert np.abs(left / error).max() < 5
    assert case["task"].metadata["differenceFootprintRatioMean"] < 0.1


def test_sky_is_gone(case):
    pair, result = case["pair"], case["result"]
    blank = away_from([*pair.stars[:, :2], *pair.transients[:, :2]], SHAPE, 14)
    difference = result.difference.image.array
    for rows in (slice(0, 150), slice(150, 300)):
        for cols in (slice(0, 170), slice(170, 340)):
            part = difference[rows, cols][blank[rows, cols]]
            assert abs(part.mean()) < 5 * part.std() / np.sqrt(len(part) / 3)
    model = result.backgroundModel.render().array
    assert result.backgroundModel.unit == pair.science.unit
    # 20 cells of 64 pixels, and wings of stars.
    np.testing.assert_allclose(model, pair.sky, atol=2.5)


def test_variance_is_that_of_the_pixels(case):
    pair, difference = case["pair"], case["result"].difference
    blank = away_from([*pair.stars[:, :2], *pair.transients[:, :2]], SHAPE, 14)
    blank &= ~bad_pixels(difference.mask, ["EDGE"])
    pulls = (difference.image.array / np.sqrt(difference.variance.array))[blank]
    assert len(pulls) > 20_000
    assert np.var(pulls) == pytest.approx(1.0, abs=0.05)
    # Photons of the stars are in the plane, too.
    x, y, flux = pair.stars[np.argmax(pair.stars[:, 2])]
    assert difference.variance.array[round(y), round(x)] > 1.5 * np.median(difference.variance.array)
    assert flux > 3e4


def test_science_minus_matched_template_is_the_difference(case):
    if not case["template_convolved"]:
        pytest.skip("the science image was convolved, too")
    pair, result = case["pair"], case["result"]
    np.testing.assert_allclose(
        pair.science.image.array - result.matchedTemplate.image.array,
        result.difference.image.array,
        atol=0.02,
    )


def test_matched_template_is_on_the_flux_scale_of_the_science_image(case):
    pair, matched = case["pair"], case["result"].matchedTemplate
    inside = [p for p in pair.stars if 16 < p[0] < SHAPE[1] - 16 and 16 < p[1] < SHAPE[0] - 16]
    found = gaussian_fluxes(matched.image.array - pair.sky, [p[:2] for p in inside], case["sigma"])
    bright = np.array([p[2] for p in inside])
    use = bright > 2e4
    assert use.sum() > 3
    np.testing.assert_allclose(found[use] / bright[use], 1.0, atol=0.05)
    assert matched.unit == pair.science.unit


def test_figures_in_the_metadata(case):
    metadata, result = case["task"].metadata, case["result"]
    sigma = (
        {"science": WIDE, "template": NARROW}
        if case["template_convolved"]
        else {"science": NARROW, "template": WIDE}
    )
    for role, width in sigma.items():
        assert metadata[f"{role}PsfSize"] == pytest.approx(2.3548 * width, rel=0.02)
        assert metadata[f"{role}NoiseRatio"] == pytest.approx(1.0, abs=0.06)  # photons of stars
    assert metadata["nPsfSources"] == len(result.kernelSources) >= 10
    assert metadata["nKernelSourcesUsed"] == result.kernelSources["used"].sum() >= 8
    assert metadata["ALBasisNGauss"] == 3 and list(metadata.getArray("ALBasisDegGauss")) == [4, 2, 2]
    assert len(metadata.getArray("ALBasisSigGauss")) == 3
    assert metadata["ALKernelSize"] == result.psfMatchingKernel.basis.shape[-1]
    assert metadata["ALBasisMode"] == "convolution"
    assert metadata["spatialConditionNum"] > 1
    assert metadata["spatialKernelOrder"] in range(4)
    for name in ("Ratio", "SkyRatio"):
        for kind in ("Mean", "Stdev"):
            assert np.isfinite(metadata[f"differenceFootprint{name}{kind}"])
    # The noise of a difference over that of a science image, between the stars.
    assert 0.8 < metadata["differenceFootprintSkyRatioMean"] < 2.0


def test_limiting_magnitudes_are_those_of_five_sigma(case):
    metadata = case["task"].metadata
    sigma = (
        {"science": WIDE, "template": NARROW}
        if case["template_convolved"]
        else {"science": NARROW, "template": WIDE}
    )
    errors = {name: np.sqrt(4 * np.pi * SKY_VARIANCE) * s for name, s in sigma.items()}
    errors["template"] *= FLUX_SCALE
    errors["diffim"] = np.hypot(*errors.values())
    for name, error in errors.items():
        expected = 31.4 - 2.5 * np.log10(5 * error * NJY)
        assert metadata[f"{name}LimitingMagnitude"] == pytest.approx(expected, abs=0.05)


def test_sources_of_the_kernel_are_stars(case):
    sources, stars = case["result"].kernelSources, case["pair"].stars
    assert {"x", "y", "signalToNoise", "chi2", "fluxResidual", "used"} <= set(sources.colnames)
    for row in sources[sources["used"]]:
        assert np.hypot(stars[:, 0] - row["x"], stars[:, 1] - row["y"]).min() < 1.0
    for name in sources.colnames:
        assert sources[name].description
    # Transients are bright enough to be tried, and do not survive.
    places = case["pair"].transients[:, :2]
    tried = [r for r in sources if np.hypot(*(places - (r["x"], r["y"])).T).min() < 2]
    assert not any(r["used"] for r in tried)


def test_difference_is_written_and_read_back(case, tmp_path):
    difference, matched = case["result"].difference, case["result"].matchedTemplate
    path = str(tmp_path / "difference.fits")
    difference.write(path)
    back = DifferenceImage.read(path)
    np.testing.assert_array_equal(back.image.array, difference.image.array)
    np.testing.assert_array_equal(back.variance.array, difference.variance.array)
    for name in ("SATURATED", "NO_DATA", "DETECTION_EDGE", "SAT_TEMPLATE"):
        np.testing.assert_array_equal(back.mask.get(name), difference.mask.get(name))
    box, place = difference.bbox, {"x": np.array([20.0, 300.0]), "y": np.array([250.0, 40.0])}
    np.testing.assert_allclose(
        evaluate_kernel(back.kernel, box, **place),
        evaluate_kernel(difference.kernel, box, **place),
        atol=1e-9,
    )
    centre = {"x": 170, "y": 150}
    np.testing.assert_allclose(
        back.psf.compute_kernel_image(**centre).array,
        difference.psf.compute_kernel_image(**centre).array,
        atol=1e-9,
    )
    assert back.unit == difference.unit and back.band == difference.band
    assert back.photometric_scaling.unit == difference.photometric_scaling.unit
    matched.write(str(tmp_path / "matched.fits"))


def test_stars_can_be_given():
    pair = make_pair()
    chosen = pair.stars[pair.stars[:, 2] > 1e4]
    task = make_task()
    result = task.run(pair.template, pair.science, sources=Table(chosen, names=["x", "y", "flux"]))
    assert 3 <= len(result.kernelSources) <= len(chosen)
    for row in result.kernelSources:
        assert np.hypot(chosen[:, 0] - row["x"], chosen[:, 1] - row["y"]).min() < 1.0
    assert task.metadata["spatialKernelSum"] == pytest.approx(FLUX_SCALE, rel=0.01)


def test_a_box_that_does_not_start_at_the_origin_changes_nothing():
    results = []
    for start in ((0, 0), (1000, -50)):
        pair = make_pair(start=start)
        results.append(make_task().run(pair.template, pair.science))
    first, second = results
    assert second.difference.bbox.y.start == 1000 and second.difference.bbox.x.start == -50
    np.testing.assert_allclose(second.difference.image.array, first.difference.image.array, atol=1e-3)
    np.testing.assert_array_equal(second.kernelSources["x"], first.kernelSources["x"] - 50)
    np.testing.assert_array_equal(second.kernelSources["y"], first.kernelSources["y"] + 1000)
    kernels = [
        evaluate_kernel(r.psfMatchingKernel, r.difference.bbox, x=np.array([33.0]), y=np.array([44.0]))
        for r in results
    ]
    np.testing.assert_allclose(*kernels, atol=1e-6)


def test_a_variable_star_does_not_change_the_kernel():
    pair = make_pair()
    x, y, flux = pair.stars[np.argmax(pair.stars[:, 2])]
    pair.science.image.array[...] += draw(SHAPE, [(x, y, 0.4 * flux)], WIDE)
    task = make_task()
    result = task.run(pair.template, pair.science)
    row = np.argmin(np.hypot(result.kernelSources["x"] - x, result.kernelSources["y"] - y))
    assert not result.kernelSources["used"][row]
    assert task.metadata["spatialKernelSum"] == pytest.approx(FLUX_SCALE, rel=0.01)
    found = gaussian_fluxes(result.difference.image.array, [(x, y)], WIDE)[0]
    assert found == pytest.approx(0.4 * flux, rel=0.03)


def masked_pair():
    pair = make_pair()
    science, template = pair.science, pair.template
    holes = {"science": np.s_[100:110, 100:110], "template": np.s_[200:210, 60:80]}
    for exposure, cut in ((science, holes["science"]), (template, holes["template"])):
        plane = np.zeros(SHAPE, bool)
        plane[cut] = True
        exposure.mask.set("NO_DATA", plane)
        exposure.image.array[cut] = np.nan
        exposure.variance.array[cut] = np.nan
    for exposure, place in ((science, (50, 250)), (template, (250, 250))):
        plane = np.zeros(SHAPE, bool)
        plane[place] = True
        exposure.mask.set("SATURATED", plane)
        exposure.image.array[place] = 60_000
    plane = np.zeros(SHAPE, bool)
    plane[150, 300] = True
    template.mask.set("BAD", plane)
    template.image.array[150, 300] = -1e5
    plane = np.zeros(SHAPE, bool)
    plane[20, 20] = True
    science.mask.set("COSMIC_RAY", plane)
    return pair, holes


def test_masks_of_both_images():
    pair, holes = masked_pair()
    before = fingerprint(pair.science), fingerprint(pair.template)
    result = make_task().run(pair.template, pair.science)
    assert (fingerprint(pair.science), fingerprint(pair.template)) == before
    for exposure in (result.difference, result.matchedTemplate):
        assert np.isfinite(exposure.image.array).all()
        assert (exposure.variance.array > 0).all()
    mask, image = result.difference.mask, result.difference.image.array
    no_data = mask.get("NO_DATA")
    for cut in holes.values():
        assert no_data[cut].all() and (image[cut] == 0).all()
    # Those of the convolved template spread, those of the science image do not.
    assert no_data[100:110, 100:110].sum() == no_data[90:120, 90:120].sum()
    assert no_data[198, 70] and no_data[205, 58] and not no_data[185, 70]
    assert no_data.mean() < 0.02
    # Saturation keeps its origin.
    assert mask.get("SATURATED")[50, 250] and not mask.get("SATURATED")[250, 250]
    template_light = mask.get("SAT_TEMPLATE")
    # A lone pixel is neither a star nor a hole that one could hide in: interpolated, it spoils nothing else.
    assert template_light[250, 250] and template_light.sum() == 1
    assert mask.get("BAD")[150, 300] and mask.get("BAD").sum() == 1
    assert mask.get("COSMIC_RAY")[20, 20] and mask.get("COSMIC_RAY").sum() == 1
    # A masked pixel of -1e5 has not leaked.
    pulls = image / np.sqrt(result.difference.variance.array)
    assert np.abs(pulls[140:161, 290:311][~mask.get("BAD")[140:161, 290:311]]).max() < 6


def test_masks_when_the_science_image_is_convolved():
    pair, holes = masked_pair()
    result = make_task(mode="convolveScience").run(pair.template, pair.science)
    mask, image = result.difference.mask, result.difference.image.array
    for cut in holes.values():
        assert mask.get("NO_DATA")[cut].all() and (image[cut] == 0).all()
    assert mask.get("NO_DATA")[100:110, 99].all()
    assert mask.get("SATURATED")[50, 250] and mask.get("SATURATED").sum() == 1
    assert mask.get("SAT_TEMPLATE").sum() == 1
    assert np.isfinite(image).all()


@pytest.mark.parametrize("role", ["science", "template"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_not_finite_have_no_data(role, value):
    pair = make_pair()
    getattr(pair, role).image.array[120:123, 130] = value
    result = make_task().run(pair.template, pair.science)
    assert np.isfinite(result.difference.image.array).all()
    assert result.difference.mask.get("NO_DATA")[120:123, 130].all()
    assert (result.difference.image.array[120:123, 130] == 0).all()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_pixels_without_variance_do_not_spoil_the_rest(value):
    pair = make_pair()
    pair.science.variance.array[100:120, 100:120] = value
    pair.template.variance.array[200, 200] = value
    result = make_task().run(pair.template, pair.science)
    good = ~bad_pixels(result.difference.mask, ["NO_DATA", "BAD"])
    assert np.isfinite(result.difference.image.array).all()
    variance = result.difference.variance.array[good]
    assert (variance > 0).all() and np.isfinite(variance).all()


def test_stars_at_the_rim_are_marked():
    pair = make_pair()
    # A bright star that is half outside.
    for exposure, sigma, scale in ((pair.science, WIDE, 1.0), (pair.template, NARROW, 1 / FLUX_SCALE)):
        exposure.image.array[...] += draw(SHAPE, [(0.0, 150.0, 1e5 * scale)], sigma)
    result = make_task().run(pair.template, pair.science)
    edge = result.difference.mask.get("DETECTION_EDGE")
    assert edge[150, 0] and not edge[:, 20:-20][20:-20].any()


def test_too_few_stars_are_refused_with_numbers():
    pair = make_pair(n_stars=2)
    task = make_task(minKernelSources=5)
    with pytest.raises(InsufficientKernelSourcesError) as caught:
        task.run(pair.template, pair.science)
    text = str(caught.value)
    assert "2 usable, 5 required" in text and "detectionThreshold=15" in text
    assert caught.value.metadata == {"nSources": 2, "nRequired": 5}
    assert task.metadata["nPsfSources"] == 2


def test_an_empty_field_is_refused():
    pair = make_pair(n_stars=0)
    with pytest.raises(InsufficientKernelSourcesError, match=r"0 usable, 3 required"):
        make_task().run(pair.template, pair.science)


def test_images_of_different_skies_are_refused():
    # Stars of one image are not in the other: no kernel can match them.
    pair, other = make_pair(seed=1), make_pair(seed=2)
    with pytest.raises(NoKernelCandidatesError, match=r"agree on a kernel.*registration") as caught:
        make_task(minKernelSources=10).run(other.template, pair.science)
    assert caught.value.metadata["nRequired"] == 10 and caught.value.metadata["nSources"] < 10


@pytest.mark.parametrize("role", ["science", "template"])
def test_an_image_without_usable_pixels_is_refused(role):
    pair = make_pair()
    exposure = getattr(pair, role)
    exposure.mask.set("BAD", np.ones(SHAPE, bool))
    with pytest.raises(UnusableExposureError, match=f"The {role} exposure cannot be used") as caught:
        make_task().run(pair.template, pair.science)
    assert caught.value.metadata["role"] == role


def test_a_wrong_gain_is_told(caplog):
    pair = make_pair()
    pair.science.variance.array[...] /= 4
    with caplog.at_level("WARNING"):
        task = make_task()
        task.run(pair.template, pair.science)
    assert task.metadata["scienceNoiseRatio"] == pytest.approx(2.0, abs=0.1)
    assert "science exposure scatter by 2." in caplog.text and "gain" in caplog.text


def test_an_uncalibrated_image_has_no_limiting_magnitude():
    pair = make_pair(calibrated=False)
    task = make_task()
    result = task.run(pair.template, pair.science)
    assert "diffimLimitingMagnitude" not in task.metadata
    assert result.difference.photometric_scaling is None


def test_registration_error_is_in_the_kernel():
    pair, shifted = make_pair(), make_pair()
    # The template is off by a fifth of a pixel.
    stars = pair.stars - [0.2, -0.1, 0]
    clean = draw(SHAPE, stars / [1, 1, FLUX_SCALE], NARROW)
    old = draw(SHAPE, pair.stars / [1, 1, FLUX_SCALE], NARROW)
    shifted.template.image.array[...] += clean - old
    result = make_task().run(shifted.template, shifted.science)
    kernel = evaluate_kernel(
        result.psfMatchingKernel, result.difference.bbox, x=np.array([170.0]), y=np.array([150.0])
    )[0]
    v, w = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - kernel.shape[0] // 2
    assert (kernel * w).sum() / kernel.sum() == pytest.approx(0.2, abs=0.03)
    assert (kernel * v).sum() / kernel.sum() == pytest.approx(-0.1, abs=0.03)
