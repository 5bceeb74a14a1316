"""The measurement task: the catalogue's columns, units, positions, fluxes and flags."""

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from lsst.images import Mask
from lsst.images.fields import ChebyshevField
from small_exposures import make_exposure, make_wcs
from small_pairs import fingerprint, make_pair
from white_differences import ERROR, NJY, make_white

from lsst.twinkles.diffim.tasks.detection import DetectionTask
from lsst.twinkles.diffim.tasks.measurement import MeasurementConfig, MeasurementTask
from lsst.twinkles.diffim.tasks.subtract import AlardLuptonSubtractConfig, AlardLuptonSubtractTask

N = 14
SHAPE = (N * 40, N * 42)
# Columns without a dimension: identifiers, counts, flags, ratios.
PLAIN = {
    "diaSourceId", "visit", "detector", "band", "parentDiaSourceId", "snr", "psfChi2", "psfNdata",
    "significance", "footprint", "nPeaks", "dipoleChi2", "dipoleNdata", "extendedness",
    "psfLnL", "blendSize", "trailChi2", "trailNdata", "trailAlgorithm",
}  # fmt: skip


def lattice(seed=3, low=8.0, high=80.0):
    """196 sources at random fractions of a pixel, of both signs."""
    rng = np.random.default_rng(seed)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(N) * 42 + 21, np.arange(N) * 40 + 20))
    flux = ERROR * 10 ** rng.uniform(np.log10(low), np.log10(high), N * N) * rng.choice([-1, 1], N * N)
    return np.column_stack([x + rng.uniform(-0.5, 0.5, N * N), y + rng.uniform(-0.5, 0.5, N * N), flux])


def as_detections(sources, *, start=(0, 0), seed=4):
    """What a detection would give for these sources: whole pixels."""
    n = len(sources)
    return Table(
        {
            "x": np.round(sources[:, 0]) + start[1],
            "y": np.round(sources[:, 1]) + start[0],
            "significance": sources[:, 2] / ERROR,
            "isNegative": sources[:, 2] < 0,
            "footprint": np.arange(1, n + 1),
            "nPeaks": np.ones(n, int),
            "isMerged": np.zeros(n, bool),
            "footprintArea": np.full(n, 30),
            "bboxSize": np.full(n, 6),
        }
    )


def measure(sources, *, start=(0, 0), images=None, shape=SHAPE, id_base=1, config=None, **kwargs):
    images = make_white(shape, sources, start=start, **kwargs) if images is None else images
    task = MeasurementTask(config=config or MeasurementConfig())
    return task.run(*images, as_detections(sources, start=start), idBase=id_base).diaSources


@pytest.fixture(scope="module")
def measured():
    sources = lattice()
    return sources, measure(sources, id_base=1000)


def test_every_column_has_a_description_and_its_unit(measured):
    _, table = measured
    for name in table.colnames:
        column = table[name]
        assert column.description, name
        if column.dtype.kind == "b" or name in PLAIN:
            assert column.unit is None, name
        else:
            assert column.unit is not None, name
    assert {
        "diaSourceId", "visit", "detector", "band", "ra", "raErr", "dec", "decErr", "ra_dec_Cov",
        "x", "xErr", "y", "yErr", "psfFlux", "psfFluxErr", "psfChi2", "psfNdata", "scienceFlux",
        "scienceFluxErr", "templateFlux", "templateFluxErr", "snr", "isNegative", "parentDiaSourceId",
        "bboxSize", "pixelFlags", "pixelFlags_edge",
    } <= set(table.colnames)  # fmt: skip
    assert table["ra"].unit == u.deg and table["x"].unit == u.pix


def test_identity(measured):
    _, table = measured
    np.testing.assert_array_equal(table["diaSourceId"], 1000 + np.arange(N * N))
    assert table["diaSourceId"].dtype == np.int64
    assert set(table["visit"]) == {1} and set(table["detector"]) == {0} and set(table["band"]) == {"r"}
    assert (table["parentDiaSourceId"] == 0).all()


def assert_pulls(pulls, n=N * N):
    """Deviates of mean 0 to 0.07 and width 1 to 0.05; four times that."""
    assert abs(np.mean(pulls)) < 4 / np.sqrt(n)
    assert abs(np.std(pulls) - 1) < 4 / np.sqrt(2 * n)


def test_positions_and_their_errors(measured):
    sources, table = measured
    assert not table["centroid_flag"].any()
    assert_pulls((table["x"] - sources[:, 0]) / table["xErr"])
    assert_pulls((table["y"] - sources[:, 1]) / table["yErr"])


def test_positions_on_the_sky_and_their_errors(measured):
    sources, table = measured
    # The WCS turns by 0.3; the first pixel of FITS is 1.
    ra, dec = make_wcs(crpix=(50.0, 50.0), angle=0.3).wcs_pix2world(sources[:, 0], sources[:, 1], 0)
    assert_pulls((table["ra"] - ra) * np.cos(np.deg2rad(table["dec"])) / table["raErr"])
    assert_pulls((table["dec"] - dec) / table["decErr"])
    scale = 0.2 / 3600
    np.testing.assert_allclose(table["decErr"], table["yErr"] * scale, rtol=0.05)
    np.testing.assert_allclose(table["raErr"], table["xErr"] * scale, rtol=0.05)
    limit = np.asarray(table["raErr"]) * np.asarray(table["decErr"])
    assert (np.abs(table["ra_dec_Cov"]) < 0.1 * limit).all()


def test_covariance_on_the_sky_is_that_of_the_pixels_turned():
    # Half of the pixels along one diagonal masked: x and y are correlated.
    sources = np.array([[60.0, 60.0, 50 * ERROR]])
    images = make_white((120, 120), sources)
    plane = np.zeros((120, 120), bool)
    rows, cols = np.mgrid[:120, :120]
    plane[(cols - 60 > 1) & (rows - 60 > 1)] = True
    for image in images:
        image.mask.set("BAD", plane)
    row = measure(sources, images=images)[0]
    assert abs(row["x_y_Cov"]) > 0.05 * row["xErr"] * row["yErr"]
    c, s = np.cos(0.3) * 0.2 / 3600, np.sin(0.3) * 0.2 / 3600
    jacobian = np.array([[-c, s], [s, c]])  # to (ra cos(dec), dec)
    pixel = np.array([[row["xErr"] ** 2, row["x_y_Cov"]], [row["x_y_Cov"], row["yErr"] ** 2]])
    sky = jacobian @ pixel @ jacobian.T
    expected = [sky[0, 0] ** 0.5, sky[1, 1] ** 0.5, sky[0, 1]]
    np.testing.assert_allclose([row["raErr"], row["decErr"], row["ra_dec_Cov"]], expected, rtol=2e-3)


def test_fluxes_are_in_nanojansky_and_unbiased(measured):
    sources, table = measured
    assert table["psfFlux"].unit == u.nJy == table["psfFluxErr"].unit
    assert_pulls((table["psfFlux"] - NJY * sources[:, 2]) / table["psfFluxErr"])
    np.testing.assert_allclose(table["psfFluxErr"], NJY * ERROR, rtol=0.01)
    np.testing.assert_allclose(table["snr"], table["psfFlux"] / table["psfFluxErr"], rtol=1e-6)
    np.testing.assert_array_equal(table["isNegative"], sources[:, 2] < 0)
    assert (table["psfNdata"] == table["psfNdata"][0]).all()
    chi2 = np.asarray(table["psfChi2"]) / table["psfNdata"][0]
    assert chi2.mean() == pytest.approx(1, abs=0.03)


def test_forced_fluxes_on_science_and_template(measured):
    sources, table = measured
    # Each place holds a static source of 1000; the sky of 300 has gone. At a measured position, and above a
    # sky measured with many sources around, a few hundredths of sigma.
    template = (table["templateFlux"] / NJY - 1000.0) / ERROR
    assert np.abs(template).max() < 1.5
    science = (table["scienceFlux"] / NJY - 1000.0 - sources[:, 2]) / ERROR
    assert abs(np.mean(science)) < 0.4 and np.std(science) == pytest.approx(1.0, abs=0.25)
    np.testing.assert_allclose(table["scienceFluxErr"], NJY * ERROR, rtol=0.01)


def test_forced_measurement_can_be_left_out():
    table = measure(lattice()[:4], shape=(60, 180), config=MeasurementConfig(doForcedMeasurement=False))
    assert "scienceFlux" not in table.colnames and "psfFlux" in table.colnames


def test_without_calibration_fluxes_keep_the_pixel_unit():
    sources = lattice()[:4]
    table = measure(sources, shape=(60, 180), calibrated=False, unit=u.adu)
    assert table["psfFlux"].unit == table["scienceFlux"].unit == u.adu
    np.testing.assert_allclose(table["psfFlux"], sources[:, 2], atol=5 * ERROR)


def test_pixels_in_microjansky_become_nanojansky():
    sources = lattice()[:4]
    table = measure(sources, shape=(60, 180), calibrated=False, unit=u.uJy)
    assert table["psfFlux"].unit == u.nJy
    np.testing.assert_allclose(table["psfFlux"], 1000 * sources[:, 2], atol=5000 * ERROR)


def test_a_box_that_does_not_start_at_the_origin():
    sources = lattice()[:4]
    here, there = (measure(sources, shape=(60, 180), start=start) for start in ((0, 0), (500, -70)))
    np.testing.assert_allclose(there["x"], here["x"] - 70, atol=1e-4)  # single precision
    np.testing.assert_allclose(there["y"], here["y"] + 500, atol=1e-4)
    # The WCS counts from the first pixel.
    np.testing.assert_allclose(there["ra"], here["ra"], atol=1e-9)
    np.testing.assert_allclose(there["psfFlux"], here["psfFlux"], rtol=1e-6)


FLAGS = {
    "SATURATED": "saturated", "BAD": "bad", "COSMIC_RAY": "cr", "SAT_TEMPLATE": "saturated_template",
    "INTERPOLATED": "interpolated", "SUSPECT": "suspect", "NO_DATA": "nodata", "STREAK": "streak",
    "CROSSTALK": "crosstalk", "ITL_DIP": "itl_dip", "SPIKE": "spike", "VIGNETTED": "vignetted",
    "UNMASKED_NAN": "unmasked_nan", "PARTLY_VIGNETTED": "partly_vignetted", "INEXACT_PSF": "inexact_psf",
}  # fmt: skip
HARMLESS = ("PARTLY_VIGNETTED", "INEXACT_PSF")


@pytest.mark.parametrize("plane", FLAGS)
def test_flags_of_masked_pixels(plane):
    sources = np.array([[30.0, 30.0, 6e3], [90.0, 30.0, 6e3], [150.0, 30.0, 6e3]])
    images = make_white((60, 180), sources)
    bad = np.zeros((60, 180), bool)
    bad[30, 30] = bad[30, 98] = True  # on the first, and eight pixels from the second
    images[0].mask.set(plane, bad)
    table = measure(sources, images=images)
    name = FLAGS[plane]
    np.testing.assert_array_equal(table[f"pixelFlags_{name}"], [True, True, False])
    np.testing.assert_array_equal(table[f"pixelFlags_{name}Center"], [True, False, False])
    np.testing.assert_array_equal(table["pixelFlags"], [plane not in HARMLESS, False, False])
    others = set(FLAGS.values()) - {name}
    assert not any(table[f"pixelFlags_{other}"].any() for other in others)
    np.testing.assert_array_equal(table["pixelFlags_edge"], [plane == "NO_DATA"] * 2 + [False])
    np.testing.assert_array_equal(table["pixelFlags_edgeCenter"], [plane == "NO_DATA", False, False])


def test_every_plane_of_a_difference_has_a_flag():
    images = make_white((60, 60), np.array([[30.0, 30.0, 6e3]]))
    difference = images[0]
    bad = np.zeros((60, 60), bool)
    bad[30, 30] = True
    for plane in set(difference.mask.schema.names) - {"DETECTED", "DETECTED_NEGATIVE", "NOT_DEBLENDED"}:
        difference.mask.array[...] = 0
        difference.mask.set(plane, bad)
        (row,) = measure(np.array([[30.0, 30.0, 6e3]]), images=images)
        flags = {name for name in row.colnames if name.startswith("pixelFlags_") and row[name]}
        assert any(name.endswith("Center") for name in flags), plane


def test_a_source_without_a_centroid_is_flagged():
    # Nothing is there: the position stays, errors are NaN, the flux is forced.
    sources = lattice()[:40] * [1, 1, 0]
    table = measure(sources, shape=(130, SHAPE[1]), config=MeasurementConfig(maxCentroidShiftFwhm=0.2))
    failed = np.asarray(table["centroid_flag"])
    assert failed.sum() > 10
    np.testing.assert_array_equal(table["x"][failed], np.round(sources[failed, 0]))
    assert np.isnan(table["xErr"][failed]).all() and np.isnan(table["raErr"][failed]).all()
    assert np.isfinite(table["psfFlux"]).all() and np.isfinite(table["ra"]).all()
    assert not table["psfFlux_flag"].any()


def test_a_source_under_the_mask_has_no_flux():
    sources = np.array([[30.0, 30.0, 6e3], [120.0, 30.0, 6e3]])
    images = make_white((60, 180), sources)
    bad = np.zeros((60, 180), bool)
    bad[:, :70] = True
    images[0].mask.set("SATURATED", bad)
    table = measure(sources, images=images)
    np.testing.assert_array_equal(table["psfFlux_flag"], [True, False])
    np.testing.assert_array_equal(table["centroid_flag"], [True, False])
    assert np.isnan(table["psfFlux"][0])


def test_parents_are_the_brightest_of_a_footprint():
    sources = np.array([[30.0, 30.0, 6e3], [45.0, 30.0, -9e3], [120.0, 30.0, 6e3]])
    images = make_white((60, 180), sources)
    detections = as_detections(sources)
    detections["footprint"] = [1, 1, 2]
    table = MeasurementTask().run(*images, detections, idBase=50).diaSources
    np.testing.assert_array_equal(table["parentDiaSourceId"], [51, 0, 0])


def test_detected_sources_are_measured_and_nothing_is_modified():
    sources = lattice(low=15)
    images = make_white(SHAPE, sources)
    before = [fingerprint(i) for i in images]
    detections = DetectionTask().run(images[0]).sources
    task = MeasurementTask()
    table = task.run(*images, detections).diaSources
    assert [fingerprint(i) for i in images] == before
    assert len(table) == N * N and task.metadata["nCentroidFailures"] == 0
    order = np.hypot(table["x"][None] - sources[:, :1], table["y"][None] - sources[:, 1:2]).argmin(axis=1)
    assert_pulls((table["psfFlux"][order] - NJY * sources[:, 2]) / table["psfFluxErr"][order])


def test_no_detections_make_an_empty_table_with_the_same_columns():
    some, none = (measure(lattice()[:n], shape=(60, 180)) for n in (4, 0))
    assert len(none) == 0
    assert none.colnames == some.colnames
    for name in some.colnames:
        assert none[name].unit == some[name].unit, name
        assert none[name].dtype.kind == some[name].dtype.kind, name


def test_error_of_a_flux_on_the_convolved_template_counts_its_correlated_noise():
    # Fluxes at empty places scatter as much as they claim to.
    pulls = []
    for seed in range(3):
        pair = make_pair(seed=seed, n_stars=16, shape=(320, 330), noise=1.0)
        config = AlardLuptonSubtractConfig()
        config.kernel = "AL"
        subtracted = AlardLuptonSubtractTask(config=config).run(pair.template, pair.science)
        y, x = (a.ravel() for a in np.mgrid[30:300:18, 30:310:18])
        free = np.all(np.hypot(x - pair.stars[:, :1], y - pair.stars[:, 1:2]) > 22, axis=0)
        places = np.column_stack([x[free], y[free], np.zeros(free.sum())])
        # Positions must stay where they are: a centroid that may not move.
        table = (
            MeasurementTask(config=MeasurementConfig(maxCentroidShiftFwhm=0.1))
            .run(subtracted.difference, pair.science, subtracted.matchedTemplate, as_detections(places))
            .diaSources
        )
        kept = np.asarray(table["centroid_flag"])
        pulls.extend((table["templateFlux"] / table["templateFluxErr"])[kept])
    assert len(pulls) > 150
    # The sky beneath is common to many: only the width counts.
    assert np.std(pulls) == pytest.approx(1.0, abs=4 / np.sqrt(2 * len(pulls)))


def test_a_calibration_that_varies_is_taken_at_each_source():
    sources = np.array([[20.0, 30.0, 6e3], [160.0, 30.0, 6e3]])
    difference, science, matched = make_white((60, 180), sources, noise=0.01)
    slope = ChebyshevField(difference.bbox, np.array([[2.0, 1.0]]), unit=u.nJy / u.electron)
    other = make_exposure(science.image.array, variance=100.0, scaling=slope)
    changed = type(difference)(
        difference.image,
        mask=Mask(schema=difference.mask.schema, bbox=difference.bbox),
        variance=difference.variance,
        sky_projection=difference.sky_projection,
        obs_info=difference.obs_info,
        photometric_scaling=other.photometric_scaling,
        psf=difference.psf,
        detector=difference.detector,
        band=difference.band,
        kernel=None,
        templates=[],
    )
    table = MeasurementTask().run(changed, science, matched, as_detections(sources)).diaSources
    expected = 2.0 + (sources[:, 0] + 0.5) * 2 / 180 - 1
    np.testing.assert_allclose(table["psfFlux"], 6e3 * expected, rtol=2e-3)
