"""The whitening task on differences made with either image convolved."""

import numpy as np
import pytest
from small_pairs import SHAPE, away_from, fingerprint, gaussian_fluxes, make_pair

from lsst.twinkles.diffim.adapters.masks import bad_pixels
from lsst.twinkles.diffim.tasks.decorrelate import DecorrelateConfig, DecorrelateTask
from lsst.twinkles.diffim.tasks.errors import UnusableExposureError
from lsst.twinkles.diffim.tasks.subtract import AlardLuptonSubtractConfig, AlardLuptonSubtractTask


def subtract(pair, mode):
    config = AlardLuptonSubtractConfig()
    config.kernel = "AL"
    config.mode = mode
    return AlardLuptonSubtractTask(config=config).run(pair.template, pair.science)


def decorrelate(pair, subtracted, difference=None, **values):
    task = DecorrelateTask(config=DecorrelateConfig(**values))
    return task.run(
        pair.science,
        pair.template,
        subtracted.difference if difference is None else difference,
        subtracted.psfMatchingKernel,
        templateMatched=subtracted.convolvedTemplate,
    )


@pytest.fixture(scope="module", params=["convolveTemplate", "convolveScience"])
def case(request):
    widths = (2.2, 1.6) if request.param == "convolveTemplate" else (1.6, 2.2)
    pair = make_pair(
        science_sigma=widths[0], template_sigma=widths[1], shape=(400, 420), n_stars=16, n_transients=10
    )
    subtracted = subtract(pair, request.param)
    before = [fingerprint(e) for e in (pair.science, pair.template, subtracted.difference)]
    result = decorrelate(pair, subtracted)
    return {"pair": pair, "subtracted": subtracted, "result": result, "before": before}


def blank_pixels(case):
    pair = case["pair"]
    difference = case["result"].correctedExposure
    blank = away_from([*pair.stars[:, :2], *pair.transients[:, :2]], difference.bbox.shape, 25)
    return blank & ~bad_pixels(difference.mask, ["EDGE"])


def correlation(image, good, dy, dx):
    a, b = image[dy:, dx:], image[: image.shape[0] - dy, : image.shape[1] - dx]
    both = good[dy:, dx:] & good[: image.shape[0] - dy, : image.shape[1] - dx]
    return float((a * b)[both].mean() / (image**2)[good].mean())


def test_noise_is_white(case):
    good = blank_pixels(case)
    corrected = case["result"].correctedExposure.image.array
    # 100 000 pixels: a standard error of 0.0032.
    assert good.sum() > 90_000
    for lag in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 1)):
        assert abs(correlation(corrected, good, *lag)) < 4 * good.sum() ** -0.5
    assert correlation(case["subtracted"].difference.image.array, good, 0, 1) > 0.02


def test_variance_is_that_of_the_pixels(case):
    good, corrected = blank_pixels(case), case["result"].correctedExposure
    ratio = np.mean((corrected.image.array**2 / corrected.variance.array)[good])
    # 0.45 percent from the pixels, and the kernel's own sum.
    assert ratio == pytest.approx(1.0, abs=0.025)
    raw = case["subtracted"].difference
    assert np.median(corrected.variance.array) > 1.05 * np.median(raw.variance.array)


def test_inputs_are_not_modified(case):
    pair, difference = case["pair"], case["subtracted"].difference
    assert [fingerprint(e) for e in (pair.science, pair.template, difference)] == case["before"]
    assert case["result"].correctedExposure.psf is not difference.psf


def test_psf_predicts_a_source(case):
    # The whitening is linear: what a source adds is the difference of two runs.
    pair, subtracted = case["pair"], case["subtracted"]
    raw = subtracted.difference
    for x, y in ((210, 200), (80, 330)):
        stamp = raw.psf.compute_kernel_image(x=x, y=y).array
        stamp = stamp / stamp.sum()
        half = stamp.shape[0] // 2
        more = raw.copy()
        flux = 1e5
        more.image.array[y - half : y + half + 1, x - half : x + half + 1] += (flux * stamp).astype("f4")
        corrected = decorrelate(pair, subtracted, more).correctedExposure
        added = corrected.image.array.astype(float) - case["result"].correctedExposure.image.array
        assert added.sum() == pytest.approx(flux, rel=2e-3)
        predicted = corrected.psf.compute_kernel_image(x=x, y=y).array
        half = predicted.shape[0] // 2
        cut = added[y - half : y + half + 1, x - half : x + half + 1]
        assert np.abs(cut - flux * predicted).max() < 1e-3 * flux * predicted.max()


def test_fluxes_stay(case):
    # Aperture sums keep their meaning; those of 21 x 21 pixels hold the rings, too.
    pair = case["pair"]
    ratios = []
    for x, y, flux in pair.transients:
        cut = np.s_[round(y) - 10 : round(y) + 11, round(x) - 10 : round(x) + 11]
        ratios.append(case["result"].correctedExposure.image.array[cut].sum() / flux)
    assert len(ratios) == 10
    # Noise of 441 pixels of sigma 16 over a flux of about 4000: 9 percent each.
    assert np.mean(ratios) == pytest.approx(1.0, abs=4 * 0.09 / np.sqrt(10))


def test_the_rest_is_kept(case, tmp_path):
    raw, corrected = case["subtracted"].difference, case["result"].correctedExposure
    assert corrected.unit == raw.unit and corrected.bbox == raw.bbox and corrected.band == raw.band
    assert corrected.kernel is not None and corrected.photometric_scaling is not None
    np.testing.assert_array_equal(corrected.mask.array, raw.mask.array)
    corrected.write(str(tmp_path / "corrected.fits"))
    filter_stamp = case["result"].correctionKernel
    assert filter_stamp.shape == (41, 41)
    assert filter_stamp.sum() == pytest.approx(1.0, abs=0.01)
    assert np.unravel_index(np.argmax(filter_stamp), (41, 41)) == (20, 20) and filter_stamp[20, 20] > 1


def test_holes_keep_their_value_and_do_not_leak():
    pair = make_pair()
    subtracted = subtract(pair, "convolveTemplate")
    difference = subtracted.difference.copy()
    plain = decorrelate(pair, subtracted, difference).correctedExposure
    plane = np.zeros(SHAPE, bool)
    plane[150, 170] = True
    difference.mask.set("SATURATED", plane)
    difference.image.array[150, 170] = 1e6
    corrected = decorrelate(pair, subtracted, difference).correctedExposure
    assert corrected.image.array[150, 170] == 1e6
    others = ~plane
    assert np.abs(corrected.image.array - plain.image.array)[others].max() < 60


def test_source_fluxes_of_a_gaussian_are_measured_with_the_new_psf_only():
    # With the old PSF the whitened fluxes are too high: the new one is sharper.
    pair = make_pair(n_transients=12, signal_to_noise=60)
    subtracted = subtract(pair, "convolveTemplate")
    corrected = decorrelate(pair, subtracted).correctedExposure.image.array
    old = gaussian_fluxes(corrected, pair.transients[:, :2], 2.2) / pair.transients[:, 2]
    assert old.mean() > 1.03


def test_preconvolution_is_refused():
    with pytest.raises(NotImplementedError, match="preConvKernel is not built yet; pass None"):
        DecorrelateTask().run(None, None, None, None, preConvKernel=1)


@pytest.mark.parametrize("role", ["science", "template"])
def test_an_image_without_variance_is_refused(role):
    pair = make_pair()
    subtracted = subtract(pair, "convolveTemplate")
    getattr(pair, role).variance.array[...] = 0.0
    with pytest.raises(UnusableExposureError, match=f"The {role} exposure cannot be used"):
        decorrelate(pair, subtracted)
