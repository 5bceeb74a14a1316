"""The whole task, from two exposures to a difference image and its catalogue."""

from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
from lsst.images import DifferenceImage
from lsst.pipe.base import NoWorkFound
from small_exposures import make_wcs
from small_pairs import NJY, SHAPE, away_from, fingerprint, make_pair

from lsst.twinkles.diffim.adapters.masks import bad_pixels
from lsst.twinkles.diffim.pipeline.ids import DiaSourceIdFactory
from lsst.twinkles.diffim.simulation.pairs import simulate_pair
from lsst.twinkles.diffim.tasks.errors import (
    TooManySourcesError,
    UnsuitableTemplateError,
    UnusableExposureError,
)
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask
from lsst.twinkles.diffim.tasks.scale_variance import ScaleVarianceTask


def make_task(**values):
    config = ImageDifferenceConfig()
    config.subtract.kernel = "AL"
    for name, value in values.items():
        setattr(config, name, value)
    return ImageDifferenceTask(config=config)


def match(table, positions, radius=2.0):
    """Index of the nearest source to each position, -1 if there is none."""
    if len(table) == 0:
        return np.full(len(positions), -1)
    distance = np.hypot(
        np.asarray(table["x"])[None] - positions[:, :1], np.asarray(table["y"])[None] - positions[:, 1:2]
    )
    return np.where(distance.min(axis=1) < radius, distance.argmin(axis=1), -1)


WIDTHS = {"template convolved": (2.2, 1.6, True), "science convolved": (1.6, 2.2, False)}


@pytest.fixture(scope="module", params=WIDTHS)
def case(request):
    """Three fields of 400 x 420 pixels, 30 transients each."""
    science_sigma, template_sigma, convolve_template = WIDTHS[request.param]
    runs = []
    for seed in range(3):
        pair = make_pair(
            science_sigma=science_sigma,
            template_sigma=template_sigma,
            seed=seed,
            shape=(400, 420),
            n_stars=24,
            n_transients=30,
            signal_to_noise=20.0,
        )
        before = fingerprint(pair.science), fingerprint(pair.template)
        task = make_task(convolveTemplate=convolve_template)
        runs.append((pair, task, task.run(pair.science, pair.template), before))
    return runs


def test_transients_are_found_with_true_fluxes_and_positions(case):
    pulls, offsets, flux_ratio, n_false = [], [], [], 0
    for pair, _, result, _ in case:
        table = result.diaSources
        index = match(table, pair.transients)
        assert (index >= 0).all()
        found = table[index]
        np.testing.assert_array_equal(found["isNegative"], pair.transients[:, 2] < 0)
        flux = NJY * pair.transients[:, 2]
        pulls.append((found["psfFlux"] - flux) / found["psfFluxErr"])
        flux_ratio.append(found["psfFlux"] / flux)
        offsets.append((found["x"] - pair.transients[:, 0]) / found["xErr"])
        offsets.append((found["y"] - pair.transients[:, 1]) / found["yErr"])
        n_false += len(table) - len(found)
    pulls, offsets = np.concatenate(pulls), np.concatenate(offsets)
    assert len(pulls) > 80
    assert abs(pulls.mean()) < 0.45 and pulls.std() == pytest.approx(1.0, abs=0.32)
    # 90 fluxes of signal-to-noise 20: half a percent, and that much of the kernel's sum.
    assert np.mean(flux_ratio) == pytest.approx(1.0, abs=0.02)
    assert abs(offsets.mean()) < 0.35 and offsets.std() == pytest.approx(1.0, abs=0.3)
    # 0.06 of the noise, and hardly more of the stars.
    assert n_false <= 3


def test_sky_positions_are_those_of_the_wcs(case):
    wcs = make_wcs()
    for pair, _, result, _ in case:
        index = match(result.diaSources, pair.transients)
        ra, dec = wcs.wcs_pix2world(pair.transients[:, 0], pair.transients[:, 1], 0)
        found = result.diaSources[index]
        assert np.abs((found["ra"] - ra) / found["raErr"]).max() < 5
        assert np.abs((found["dec"] - dec) / found["decErr"]).max() < 5


def test_noise_is_white_and_its_variance_true(case):
    for pair, task, result, _ in case:
        difference = result.subtractedExposure
        blank = away_from([*pair.stars[:, :2], *pair.transients[:, :2]], (400, 420), 20)
        blank &= ~bad_pixels(difference.mask, ["EDGE"])
        pulls = np.where(blank, difference.image.array / np.sqrt(difference.variance.array), np.nan)
        assert np.nanvar(pulls) == pytest.approx(1.0, abs=0.03)
        limit = 4 / np.sqrt(blank.sum())
        for a, b in ((pulls[:, 1:], pulls[:, :-1]), (pulls[1:], pulls[:-1]), (pulls[:, 2:], pulls[:, :-2])):
            assert abs(np.nanmean(a * b)) < limit + 0.004
        assert task.metadata["scaleDiffimVarianceFactor"] == pytest.approx(1.0, abs=0.05)


def test_inputs_are_not_modified(case):
    for pair, _, _, before in case:
        assert (fingerprint(pair.science), fingerprint(pair.template)) == before


def test_everything_that_is_returned(case, tmp_path):
    pair, task, result, _ = case[0]
    difference = result.subtractedExposure
    assert isinstance(difference, DifferenceImage) and difference.bbox == pair.science.bbox
    assert difference.unit == u.electron == result.matchedExposure.unit
    assert result.warpedExposure.bbox == pair.science.bbox
    assert result.scoreExposure.bbox == pair.science.bbox
    assert result.subtractRes.kernelSources is result.selectSources
    detected = difference.mask.get("DETECTED"), difference.mask.get("DETECTED_NEGATIVE")
    for x, y, flux in pair.transients:
        assert detected[0 if flux > 0 else 1][round(y), round(x)]
    difference.write(str(tmp_path / "difference.fits"))
    back = DifferenceImage.read(str(tmp_path / "difference.fits"))
    np.testing.assert_array_equal(back.mask.get("DETECTED"), detected[0])
    assert task.metadata["nDiaSources"] == len(result.diaSources)
    assert task.metadata["templateCoveragePercent"] == 100.0
    full = task.getFullMetadata()
    for key in ("sciencePsfSize", "templatePsfSize", "convolvedExposure", "spatialKernelSum", "nPsfSources"):
        assert key in full["imageDifference:subtract"]
    assert "nRejectedBadMaskPlanes" in full["imageDifference:detection"]


def test_three_lines_without_a_repository():
    pair = make_pair(n_transients=6)
    science, template = pair.science, pair.template

    task = ImageDifferenceTask()
    result = task.run(science, template)
    table = result.diaSources

    assert (match(table, pair.transients) >= 0).all()


def test_a_simulated_twinkles_pair():
    pair = simulate_pair("std", seed=3, nx=384, ny=384, n_transients=20)
    result = make_task().run(pair.science, pair.template)
    truth = pair.truth[(pair.truth["kind"] == "transient") & (pair.truth["snr"] > 9)]
    index = match(result.diaSources, np.column_stack([truth["x"], truth["y"]]))
    assert len(truth) >= 6 and np.mean(index >= 0) > 0.8
    found, truth = result.diaSources[index[index >= 0]], truth[index >= 0]
    # Electrons to nJy by the calibration of the exposure.
    box = pair.science.bbox
    scale = float(pair.science.photometric_scaling(x=box.x.center, y=box.y.center))
    unit = pair.science.photometric_scaling.unit * pair.science.unit
    flux = truth["difference_flux"] * scale * unit.to(u.nJy)
    pulls = (np.asarray(found["psfFlux"]) - flux) / np.asarray(found["psfFluxErr"])
    assert abs(np.median(pulls)) < 1.5 and np.abs(pulls).max() < 7
    assert np.median(found["psfFlux"] / flux) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize(("factory", "first"), [(None, 1), (77, 77), (lambda: 9000, 9000)])
def test_identifiers_start_where_they_are_told(factory, first):
    pair = make_pair(n_transients=6)
    table = make_task().run(pair.science, pair.template, idFactory=factory).diaSources
    np.testing.assert_array_equal(table["diaSourceId"], first + np.arange(len(table)))


def test_more_sources_than_identifiers_are_an_error():
    pair = make_pair(n_transients=6)
    factory = DiaSourceIdFactory(1, 2)
    few = SimpleNamespace(max_sources=3)
    with pytest.raises(TooManySourcesError, match=r"detections, and identifiers for 3 .*thresholdValue"):
        make_task().run(pair.science, pair.template, idFactory=few)
    table = make_task().run(pair.science, pair.template, idFactory=factory).diaSources
    np.testing.assert_array_equal(table["diaSourceId"], factory.make(len(table)))


def test_stages_can_be_left_out():
    pair = make_pair(n_transients=6)
    bare = make_task(
        doDetection=False, doMeasurement=False, doDecorrelation=False, doScaleDiffimVariance=False
    )
    result = bare.run(pair.science, pair.template)
    assert result.diaSources is None and result.scoreExposure is None
    assert result.subtractRes.difference is result.subtractedExposure
    alone = bare.subtract.run(pair.template, pair.science).difference
    np.testing.assert_array_equal(result.subtractedExposure.image.array, alone.image.array)
    assert "scaleDiffimVarianceFactor" not in bare.metadata
    detected = make_task(doMeasurement=False).run(pair.science, pair.template)
    assert (match(detected.diaSources, pair.transients) >= 0).all()
    assert "psfFlux" not in detected.diaSources.colnames


def test_variance_of_the_template_can_be_scaled():
    pair = make_pair()
    pair.template.variance.array[...] /= 2.0
    task = make_task(doScaleTemplateVariance=True, doScaleDiffimVariance=False)
    task.run(pair.science, pair.template)
    # Stars raise the quartiles of a crowded field a little.
    assert 1.9 < task.metadata["scaleTemplateVarianceFactor"] < 3.5


def test_flaws_of_the_pixels_are_masked_and_counted(caplog):
    pair = make_pair()
    pair.science.image.array[100, 100:103] = np.nan
    pair.science.variance.array[120, 120] = -1.0
    pair.template.image.array[200, 200] = np.inf
    task = make_task()
    with caplog.at_level("WARNING"):
        result = task.run(pair.science, pair.template)
    assert task.metadata["scienceNonFinitePixels"] == 3 and task.metadata["scienceBadVariancePixels"] == 1
    assert task.metadata["templateNonFinitePixels"] == 1
    assert "3 unmasked pixels that are NaN" in caplog.text
    difference = result.subtractedExposure
    assert np.isfinite(difference.image.array).all()
    assert difference.mask.get("NO_DATA")[100, 100:103].all() and difference.mask.get("NO_DATA")[200, 200]
    assert (difference.image.array[100, 100:103] == 0).all()


def test_refusals():
    pair = make_pair()
    task = make_task()
    with pytest.raises(UnsuitableTemplateError, match="science exposure itself; give another visit"):
        task.run(pair.science, pair.science)
    no_psf = type(pair.template)(
        pair.template.image,
        mask=pair.template.mask,
        variance=pair.template.variance,
        sky_projection=pair.template.sky_projection,
        obs_info=pair.template.obs_info,
        detector=pair.template.detector,
        band=pair.template.band,
        psf=None,
    )
    with pytest.raises(UnusableExposureError, match="template exposure has no PSF"):
        task.run(pair.science, no_psf)
    pair.template.mask.set("BAD", np.ones(SHAPE, bool))
    with pytest.raises(UnusableExposureError, match="All 102000 pixels of the template exposure are masked"):
        task.run(pair.science, pair.template)


def test_little_overlap_is_no_work():
    pair = make_pair()
    plane = np.ones(SHAPE, bool)
    plane[:, :20] = False
    pair.template.mask.set("NO_DATA", plane)
    with pytest.raises(NoWorkFound, match=r"covers 5\.\d percent.*10\.0 percent required"):
        make_task().run(pair.science, pair.template)


def test_variance_is_scaled_to_the_scatter():
    rng = np.random.default_rng(1)
    pair = make_pair(n_stars=0)
    exposure = pair.science
    exposure.image.array[...] = rng.normal(0, 10, SHAPE)
    exposure.variance.array[...] = 80.0
    before = fingerprint(exposure)
    result = ScaleVarianceTask().run(exposure)
    assert fingerprint(exposure) == before
    # 102 000 pixels; an interquartile range has 2.7 times the variance of a standard deviation: 0.7 percent.
    assert result.factor == pytest.approx(1.25, rel=0.03)
    np.testing.assert_allclose(result.scaled.variance.array, 80.0 * result.factor, rtol=1e-6)
