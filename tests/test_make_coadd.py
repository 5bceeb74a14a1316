"""The task that coadds visits: units, grids, variance, masks, and what it says of itself."""

import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box, VisitImage
from lsst.images.fields import ChebyshevField
from lsst.pex.config import FieldValidationError
from scipy.signal import fftconvolve
from small_exposures import make_exposure, make_wcs
from small_pairs import draw

from lsst.twinkles.diffim.adapters.psfs import sample_psf
from lsst.twinkles.diffim.tasks.coadd_exposure import TargetGrid, coadd_visits
from lsst.twinkles.diffim.tasks.errors import UnsuitableTemplateError, UnusableExposureError
from lsst.twinkles.diffim.tasks.exposure_figures import measure_figures, sky_corners
from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceTask
from lsst.twinkles.diffim.tasks.make_coadd import MakeCoaddTask

SHAPE = (260, 280)
STARS = [(70, 60, 4e3), (200, 90, 2e4), (140, 190, 1e5), (60, 200, 8e3), (230, 220, 3e4)]  # x, y, nJy
SIGMAS, NOISES, SCALES = (1.7, 2.2, 1.9, 2.0, 2.4), (20.0, 16.0, 24.0, 18.0, 30.0), (2.0, 2.5, 1.8, 3.0, 2.2)


def make_visit(number, *, wcs=None, stars=STARS, shape=SHAPE):
    """Return a calibrated visit; noise in nJy a pixel, sky of its own."""
    rng = np.random.default_rng([8, number])
    scale, noise, sigma = SCALES[number], NOISES[number], SIGMAS[number]
    model = draw(shape, stars, sigma)
    pixels = (model + noise * rng.standard_normal(shape)) / scale + 40.0 * number
    exposure = make_exposure(
        pixels,
        visit=number + 1,
        variance=np.full(shape, (noise / scale) ** 2),
        sigma=sigma,
        wcs=wcs,
        scaling=ChebyshevField(Box.from_shape(shape), np.array([[scale]]), unit=u.nJy / u.electron),
    )
    return exposure


def run(exposures, *, grid=None, **values):
    """Coadd exposures on the grid of the first."""
    config = MakeCoaddTask.ConfigClass()
    for name, value in values.items():
        setattr(config, name, value)
    task = MakeCoaddTask(config=config)
    grid = TargetGrid.of_exposure(exposures[0]) if grid is None else grid
    visits = [exposure.obs_info.visit_id for exposure in exposures]
    return task.run(grid, visits, [lambda e=e: e for e in exposures])


@pytest.fixture(scope="module")
def exposures():
    return [make_visit(number) for number in range(5)]


@pytest.fixture(scope="module")
def result(exposures):
    return run(exposures)


def flux_at(exposure, x, y):
    """Return the least-squares PSF flux at a pixel, over a local sky of zero."""
    psf = sample_psf(exposure.psf, exposure.bbox).evaluate(x=float(x), y=float(y))
    half = psf.shape[0] // 2
    cut = exposure.image.array[y - half : y + half + 1, x - half : x + half + 1]
    return float((cut * psf).sum() / (psf**2).sum())


def test_fluxes_are_in_nanojansky(result):
    assert result.coadd.unit == u.nJy
    for x, y, flux in STARS:
        assert flux_at(result.coadd, x, y) == pytest.approx(flux, rel=0.01, abs=300)


def test_noise_is_as_claimed(result):
    coadd = result.coadd
    claimed = np.sum(1 / np.square(NOISES)) ** -0.5
    assert np.sqrt(np.median(coadd.variance.array)) == pytest.approx(claimed, rel=1e-3)
    image = coadd.image.array - draw(SHAPE, STARS, 2.0)
    far = np.ones(SHAPE, bool)
    for x, y, _ in STARS:
        far[y - 25 : y + 26, x - 25 : x + 26] = False
    assert image[far].std() == pytest.approx(claimed, rel=0.015)
    assert image[far].mean() == pytest.approx(0.0, abs=0.3)  # each visit had a sky of its own


def test_what_went_in(result):
    table = result.inputs
    assert list(table["visit"]) == [1, 2, 3, 4, 5] == coadd_visits(result.coadd)
    assert list(table["skyNoise"]) == pytest.approx(NOISES, rel=1e-3)
    assert table["weight"].sum() == pytest.approx(1.0)
    assert not table["warped"].any()


def test_the_coadd_survives_a_file(result, tmp_path):
    result.coadd.write(str(tmp_path / "coadd.fits"))
    again = VisitImage.read(str(tmp_path / "coadd.fits"))
    assert coadd_visits(again) == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(again.image.array, result.coadd.image.array)
    assert (again.band, again.physical_filter) == ("r", "r")
    assert measure_figures(again).scale == 1.0


def test_inputs_are_not_modified(exposures):
    before = [exposure.image.array.copy() for exposure in exposures]
    run(exposures[:3])
    for exposure, pixels in zip(exposures, before, strict=True):
        np.testing.assert_array_equal(exposure.image.array, pixels)


def test_a_transient_and_a_cosmic_ray_do_not_get_in():
    exposures = [make_visit(number) for number in range(5)]
    exposures[3].image.array[...] += (draw(SHAPE, [(120, 120, 3e3)], SIGMAS[3]) / SCALES[3]).astype(
        np.float32
    )
    exposures[1].image.array[30, 100:104] += 900.0
    with_it = run(exposures, doRejectOutliers=False).coadd
    without = run(exposures)
    error = np.sqrt(np.median(with_it.variance.array)) * 2 * np.sqrt(np.pi) * 2.0
    assert flux_at(with_it, 120, 120) > 5 * error
    assert abs(flux_at(without.coadd, 120, 120)) < 3.5 * error
    assert abs(flux_at(without.coadd, 101, 30)) < 3.5 * error
    assert without.inputs["nOutlierPixels"][3] > 50 and without.inputs["nOutlierPixels"][1] >= 4


def test_masks_and_variance_where_visits_are_missing():
    exposures = [make_visit(number) for number in range(5)]
    bad, saturated = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    bad[100:110, 20:30], saturated[150:153, 150:153] = True, True
    exposures[1].mask.set("BAD", bad)
    exposures[1].image.array[bad] = 1e5
    exposures[0].mask.set("SATURATED", saturated)
    for exposure in exposures:
        exposure.image.array[:2, :2] = np.nan
    coadd = run(exposures, doRejectOutliers=False).coadd
    assert coadd.mask.get("INEXACT_PSF")[105, 25] and not coadd.mask.get("INEXACT_PSF")[200, 150]
    assert coadd.mask.get("SATURATED")[151, 151]
    assert coadd.mask.get("NO_DATA")[:2, :2].all() and coadd.mask.get("NO_DATA").sum() == 4
    assert np.isnan(coadd.image.array[0, 0])
    left = np.sum(1 / np.square(np.delete(NOISES, 1)))
    assert coadd.variance.array[105, 25] == pytest.approx(1 / left, rel=1e-3)
    assert abs(coadd.image.array[105, 25]) < 5 * left**-0.5


@pytest.mark.parametrize("method", ["proper", "matched", "direct"])
def test_dithered_and_turned_visits(method):
    """Resampled visits: fluxes stay, and noise behind a matched filter is what the variance plane says."""
    # A sharp star catalogue in sky coordinates, drawn where each visit sees it.
    reference = make_wcs(crpix=(140.0, 130.0))
    wcses = [
        reference,
        *(make_wcs(crpix=(140.3 + 3.2 * n, 130.4 - 2.7 * n), angle=0.02 * n) for n in range(1, 5)),
    ]
    sky = reference.all_pix2world([[x, y] for x, y, _ in STARS], 0)
    exposures = []
    for number, wcs in enumerate(wcses):
        places = wcs.all_world2pix(sky, 0)
        stars = [(x, y, flux) for (x, y), (_, _, flux) in zip(places, STARS, strict=True)]
        exposures.append(make_visit(number, wcs=wcs, stars=stars))
    result = run(exposures, method=method)
    coadd = result.coadd
    assert list(result.inputs["warped"]) == [False, True, True, True, True]
    for x, y, flux in STARS[1:4]:
        assert flux_at(coadd, x, y) == pytest.approx(flux, rel=0.015, abs=300)
    psf = sample_psf(coadd.psf, coadd.bbox).mean()
    good = ~coadd.mask.get("NO_DATA") & ~coadd.mask.get("INEXACT_PSF")
    for x, y, _ in STARS:
        good[y - 28 : y + 29, x - 28 : x + 29] = False
    pull = np.where(np.isfinite(coadd.image.array), coadd.image.array, 0.0) / np.sqrt(
        np.nanmedian(coadd.variance.array)
    )
    fluxes = fftconvolve(pull, psf[::-1, ::-1], mode="same") / np.sqrt((psf**2).sum())
    inside = np.zeros(SHAPE, bool)
    inside[25:-25, 25:-25] = True
    # 35 000 pixels, of which the filter leaves some 700 independent: 2.7 percent by chance.
    assert fluxes[good & inside].std() == pytest.approx(1.0, abs=0.06)


def test_tangent_plane_around_all_visits():
    exposures = [
        make_visit(n, wcs=make_wcs(crpix=(140.0 + 20 * n, 130.0), angle=0.3 * n), stars=[]) for n in range(3)
    ]
    corners = [sky_corners(exposure, exposure.bbox) for exposure in exposures]
    grid = TargetGrid.of_exposure(exposures[0]).on_tangent_plane(corners, pixel_scale=0.25)
    for exposure in exposures:
        for x, y in ((0, 0), (279, 0), (0, 259), (279, 259)):
            there = grid.sky_projection.sky_to_pixel(exposure.sky_projection.pixel_to_sky(x=x, y=y))
            assert -0.6 <= there.x <= grid.bbox.x.stop and -0.6 <= there.y <= grid.bbox.y.stop
    coadd = run(exposures, grid=grid).coadd
    assert coadd.bbox == grid.bbox
    assert measure_figures(coadd).pixel_scale == pytest.approx(0.25, rel=1e-3)
    assert 0.05 < coadd.mask.get("NO_DATA").mean() < 0.6  # corners that no visit reaches
    far = [sky_corners(exposures[0], exposures[0].bbox), -corners[0] + [0.1, 0.0, 0.0]]
    with pytest.raises(UnusableExposureError, match="more than 20000 on a side"):
        grid.on_tangent_plane([far[0], far[0] + [0.0, 0.2, 0.0]], pixel_scale=0.2)


def test_visits_that_cannot_be_used_are_left_out(exposures, caplog):
    uncalibrated = make_exposure(exposures[0].image.array, visit=9)
    elsewhere = make_visit(1, wcs=make_wcs(ra=80.0))
    empty = make_visit(2)
    empty.image.array[...] = np.nan
    result = run([exposures[0], uncalibrated, elsewhere, empty])
    assert list(result.inputs["visit"]) == [1]
    for words in ("Visit 9 has no photometric scaling", "does not overlap", "Visit 3 is left out"):
        assert words in caplog.text
    with pytest.raises(UnusableExposureError, match="1 of 2 visits can be coadded, nVisitsMin=2"):
        run([exposures[0], uncalibrated], nVisitsMin=2)


def test_two_visits_are_too_few_to_reject_anything(exposures, caplog):
    assert list(run(exposures[:2]).inputs["nOutlierPixels"]) == [0, 0]
    assert "too few to tell" in caplog.text


def test_settings_that_cannot_be_had():
    config = MakeCoaddTask.ConfigClass()
    config.nVisitsMin = 5
    config.selectVisits.active.nVisitsMax = 3
    with pytest.raises(FieldValidationError, match=r"nVisitsMin=5 is more than selectVisits\.nVisitsMax=3"):
        config.validate()


def test_no_difference_from_a_coadd_that_holds_the_visit(exposures, result):
    with pytest.raises(UnsuitableTemplateError, match="Visit 3 is part of the coadd"):
        ImageDifferenceTask().run(exposures[2], result.coadd)
