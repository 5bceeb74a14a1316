"""Pictures and summaries: what they show is what there is."""

import matplotlib
import numpy as np
import pytest
from astropy.table import Table
from lsst.images.convolution_kernels import ImageBasisConvolutionKernel
from lsst.images.fields import ChebyshevField
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy import ndimage
from small_exposures import draw_stars, make_exposure, make_wcs

from lsst.twinkles.diffim.report.cutouts import plot_cutouts
from lsst.twinkles.diffim.report.figures import (
    describe_exposure,
    plot_autocorrelation,
    plot_difference,
    plot_kernel,
    save_figure,
)
from lsst.twinkles.diffim.report.noise import find_blank_sky, measure_noise
from lsst.twinkles.diffim.report.panels import (
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    TRUTH_COLOR,
    bin_image,
    draw_compass,
    draw_scale_bar,
    mark_detections,
    show_sky,
    significance,
)
from lsst.twinkles.diffim.report.summary import (
    compare_with_truth,
    count_kinds,
    format_comparison,
    format_kinds,
)

SHAPE = (90, 120)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(seed=0, *, sigma=10.0, shape=SHAPE):
    return np.random.default_rng(seed).normal(0.0, sigma, shape)


@pytest.fixture(scope="module")
def exposures():
    """Science, template and difference with one source that brightened and one that faded."""
    stars = draw_stars(SHAPE, [(60.0, 45.0)], sigma=2.0, flux=5e4)
    change = draw_stars(SHAPE, [(30.0, 20.0)], sigma=2.0, flux=4e3)
    change = change - draw_stars(SHAPE, [(90.0, 70.0)], sigma=2.0, flux=4e3)
    science = make_exposure(stars + change + noise(1), visit=230, band="i")
    template = make_exposure(stars + noise(2), visit=250, band="i")
    return science, template, make_exposure(change + noise(3), visit=230, band="i")


@pytest.fixture
def sources():
    return Table({"x": [30.0, 90.0], "y": [20.0, 70.0], "isNegative": [False, True], "snr": [20.0, -15.0]})


def count_color(path, color, tolerance=0.02):
    """Return how many pixels of a PNG have a color."""
    pixels = matplotlib.image.imread(path)[..., :3]
    return int(np.count_nonzero(np.all(np.abs(pixels - to_rgb(color)) < tolerance, axis=-1)))


def test_picture_of_a_difference_shows_detections_of_both_signs_and_the_truth(exposures, sources, tmp_path):
    path = plot_difference(*exposures, sources, tmp_path / "with.png", truth=sources)
    bare = plot_difference(*exposures, sources[:0], tmp_path / "without.png")
    assert path.read_bytes().startswith(SIGNATURE)
    for color in (POSITIVE_COLOR, NEGATIVE_COLOR):
        assert count_color(path, color) > count_color(bare, color) + 50
    assert count_color(path, TRUTH_COLOR) > count_color(bare, TRUTH_COLOR) + 50
    assert {file.name for file in tmp_path.iterdir()} == {"with.png", "without.png"}


def test_picture_is_as_wide_as_two_panels_and_follows_the_shape_of_the_image(exposures, sources, tmp_path):
    height, width = matplotlib.image.imread(plot_difference(*exposures, sources, tmp_path / "a.png")).shape[
        :2
    ]
    tall = [make_exposure(noise(shape=(240, 120))) for _ in range(3)]
    taller, same = matplotlib.image.imread(plot_difference(*tall, sources, tmp_path / "b.png")).shape[:2]
    assert width == same and 1000 < width < 3000
    assert height < width < taller


def test_sources_beyond_the_rim_do_not_widen_the_picture(exposures, sources):
    ax = Figure().subplots()
    show_sky(ax, exposures[0])
    limits = ax.get_xlim(), ax.get_ylim()
    beyond = Table({"x": [-50.0], "y": [500.0], "isNegative": [False]})
    assert mark_detections(ax, beyond) == (1, 0) and mark_detections(ax, sources) == (1, 1)
    assert (ax.get_xlim(), ax.get_ylim()) == limits == ((-0.5, 119.5), (-0.5, 89.5))


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="missing"):
        save_figure(Figure(), tmp_path / "missing" / "a.png")

    class Broken(Figure):
        def savefig(self, file, **kwargs):
            file.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_figure(Broken(), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_exposures_without_a_good_pixel_can_be_drawn(sources, tmp_path):
    blank = make_exposure(np.full(SHAPE, np.nan))
    blank.mask.set("NO_DATA", np.ones(SHAPE, dtype=bool))
    assert plot_difference(blank, blank, blank, sources, tmp_path / "a.png").exists()
    assert plot_cutouts(blank, blank, blank, sources, tmp_path / "b.png").exists()


def test_exposures_are_described(exposures):
    words = describe_exposure(exposures[0])
    assert words.startswith("visit 230, i, FWHM ") and words.endswith("″")
    # A Gaussian of 2 pixels of 0.2 arcsec.
    assert float(words.split()[-1][:-1]) == pytest.approx(2.355 * 2.0 * 0.2, abs=0.03)


def test_cutouts_show_the_highest_detections_and_work_at_the_rim(exposures, sources, tmp_path):
    sources.add_row((1.0, 88.0, False, 50.0))
    path = plot_cutouts(*exposures, sources, tmp_path / "cutouts.png", count=2)
    assert count_color(path, POSITIVE_COLOR) > 20 and count_color(path, NEGATIVE_COLOR) == 0
    for wrong in ({"count": 0}, {"size": 30}):
        with pytest.raises(ValueError, match="count must be"):
            plot_cutouts(*exposures, sources, tmp_path / "no.png", **wrong)


def test_kernel_and_autocorrelation_are_drawn(exposures, tmp_path):
    box = exposures[0].bbox
    stamps = np.stack([draw_stars((21, 21), [(10.0, 10.0)], sigma=s, flux=1.0) for s in (1.0, 2.0)])
    fields = [ChebyshevField(box, np.array([[1.0]])), ChebyshevField(box, np.array([[0.0, 0.3]]))]
    kernel = ImageBasisConvolutionKernel(stamps, fields)
    assert plot_kernel(kernel, exposures[2], tmp_path / "k.png", points=2).read_bytes().startswith(SIGNATURE)
    figures = measure_noise(make_exposure(noise(), variance=100.0), largest_lag=2)
    path = plot_autocorrelation(figures.autocorrelation, tmp_path / "a.png", claimed=figures.ratio)
    assert path.read_bytes().startswith(SIGNATURE)


def test_binning_is_the_mean_of_good_pixels():
    values = np.arange(35.0).reshape(5, 7)
    good = np.ones((5, 7), dtype=bool)
    good[0, 1], values[1, 0] = False, np.nan
    good[3:, :3] = False
    means, counts = bin_image(values, good, factor=3)
    assert means.shape == counts.shape == (2, 3)
    kept = [v for j in range(3) for i in range(3) for v in [values[j, i]] if good[j, i] and np.isfinite(v)]
    assert means[0, 0] == pytest.approx(np.mean(kept)) and counts[0, 0] == 7
    assert np.isnan(means[1, 0]) and counts[1, 0] == 0
    assert means[1, 2] == pytest.approx(values[3:, 6:].mean())


@pytest.mark.parametrize("largest", [500, 60])
def test_significance_of_noise_is_one_whatever_the_binning(largest):
    panel = significance(make_exposure(noise(shape=(240, 250)), variance=100.0), largest=largest)
    assert panel.factor == (1 if largest == 500 else 5)
    assert np.std(panel.values) == pytest.approx(1.0, abs=0.05)
    assert panel.extent == (-0.5, 249.5, -0.5, 239.5)


def test_masked_pixels_are_hidden():
    exposure = make_exposure(noise())
    exposure.mask.set("BAD", np.arange(120)[None, :] == np.full((90, 1), 40))
    hidden = significance(exposure).hidden
    assert hidden[:, 40].all() and hidden.sum() == 90


def test_compass_and_scale_bar_agree_with_the_sky():
    ax = Figure().subplots()
    exposure = make_exposure(noise(), wcs=make_wcs(angle=0.0))
    show_sky(ax, exposure)
    draw_scale_bar(ax, pixel_scale=0.2, width=120)
    (bar,) = ax.lines
    length = np.ptp(bar.get_xdata()) * 0.2
    assert ax.texts[-1].get_text() == f"{length:g}″" and 120 * 0.2 / 12 < length < 120 * 0.2 / 3
    draw_compass(ax, north=(0.0, 1.0), east=(-1.0, 0.0))
    places = {text.get_text(): text.get_position() for text in ax.texts[-4:]}
    assert places["N"][1] > places["E"][1] and places["E"][0] < places["N"][0]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for name in ("N", "E"):
        assert left < places[name][0] < right and bottom < places[name][1] < top


@pytest.mark.parametrize(
    "metadata, words",
    [({}, {"N", "E"}), ({"madeWcs": "a stand-in"}, set()), ({"madeWcs": "", "assumedPixelScale": ""}, None)],
)
def test_a_stand_in_wcs_has_no_compass_and_a_guessed_scale_no_bar(metadata, words):
    from lsst.twinkles.diffim.report.figures import _draw_furniture

    exposure = make_exposure(noise())
    exposure.metadata.update(metadata)
    ax = Figure().subplots()
    show_sky(ax, exposure)
    _draw_furniture(ax, exposure)
    texts = {text.get_text() for text in ax.texts}
    if words is None:
        assert not texts and not ax.lines
    else:
        assert texts & {"N", "E"} == words and len(ax.lines) == 1


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_north_is_where_the_wcs_says(angle):
    from lsst.twinkles.diffim.report.figures import _sky_axes

    wcs = make_wcs(crpix=(60.0, 45.0), angle=angle)
    east, north = _sky_axes(make_exposure(noise(), wcs=wcs))
    x, y = wcs.all_pix2world(59.5, 44.5, 0)
    there = np.array(wcs.all_world2pix(x, y + 1 / 3600, 0)) - (59.5, 44.5)
    assert north == pytest.approx(there, abs=1e-3)
    assert np.hypot(*east) == pytest.approx(5.0, rel=1e-3) and east @ north == pytest.approx(0.0, abs=1e-2)


def test_white_noise_is_found_white_and_a_wrong_variance_wrong():
    image = noise(5, shape=(300, 300))
    figures = measure_noise(make_exposure(image, variance=100.0))
    assert figures.ratio == pytest.approx(1.0, abs=0.01) and abs(figures.ac1) < 0.01
    assert figures.n_pixels == 90_000
    assert measure_noise(make_exposure(image, variance=25.0)).ratio == pytest.approx(2.0, abs=0.02)


def test_correlated_noise_is_found_correlated():
    white = noise(6, shape=(300, 300))
    smooth = ndimage.convolve1d(white, [0.5, 0.5], axis=1)
    figures = measure_noise(make_exposure(smooth, variance=50.0), largest_lag=2)
    correlation = figures.autocorrelation
    assert correlation.shape == (5, 5) and correlation[2, 2] == 1.0
    assert correlation == pytest.approx(correlation[::-1, ::-1])
    assert correlation[2, 3] == pytest.approx(0.5, abs=0.01)
    assert correlation[3, 2] == pytest.approx(0.0, abs=0.015)
    assert figures.ac1 == pytest.approx(0.25, abs=0.01)


def test_blank_sky_is_free_of_masks_detections_and_light():
    exposure = make_exposure(noise(shape=(120, 120)), variance=100.0)
    exposure.mask.set("DETECTED", square(120, 30, 30))
    exposure.variance.array[90, 90] = 500.0
    blank = find_blank_sky(exposure, growth=8)
    assert not blank[30, 30] and not blank[30, 38] and blank[30, 44]
    assert not blank[90, 90] and not blank[90, 97] and blank[90, 110]
    with pytest.raises(ValueError, match="at least 100"):
        exposure.mask.set("NO_DATA", np.ones((120, 120), dtype=bool))
        measure_noise(exposure)


def square(size, y, x):
    result = np.zeros((size, size), dtype=bool)
    result[y - 2 : y + 3, x - 2 : x + 3] = True
    return result


@pytest.fixture
def catalogue():
    """Five detections: two right, one of the wrong sign, one of something faint, one false."""
    return Table(
        {
            "x": [10.2, 50.0, 80.0, 20.0, 95.0],
            "y": [10.0, 49.5, 80.0, 60.0, 5.0],
            "isNegative": [False, True, False, False, True],
            "psfFlux": [105.0, -190.0, 300.0, 31.0, -60.0],
            "psfFluxErr": [5.0, 10.0, 10.0, 5.0, 10.0],
        }
    )


@pytest.fixture
def truth():
    return Table(
        {
            "x": [10.0, 50.0, 80.0, 20.0, 70.0, 94.0],
            "y": [10.0, 50.0, 80.0, 60.0, 20.0, 5.0],
            "difference_flux": [100.0, -200.0, -300.0, 20.0, 90.0, 0.0],
            "snr": [20.0, 20.0, 30.0, 4.0, 18.0, 0.0],
            "kind": ["supernova", "quasar", "quasar", "supernova", "supernova", "supernova"],
        }
    )


def test_catalogue_is_compared_with_the_truth(catalogue, truth):
    result = compare_with_truth(catalogue, truth)
    assert list(result.found) == [True, True, False, True, False, False]
    assert list(result.match) == [0, 1, -1, 3, -1, -1]
    # The last lies on a supernova that is long gone; what has the wrong sign is explained, not right.
    assert list(result.false) == [False, False, False, False, True]
    assert (result.n_detections, result.n_expected, result.n_found, result.n_false) == (5, 4, 2, 1)
    assert result.completeness == 0.5
    assert result.flux_bias == pytest.approx(0.0)  # one 5 percent too bright, one too faint
    assert result.pull_median == pytest.approx(0.0) and result.pull_scatter == pytest.approx(1.4826)
    assert result.n_alone == 2 and np.isnan(result.blend_pull_scatter)
    assert result.position_rms == pytest.approx(np.sqrt((0.2**2 + 0.5**2) / 4))
    words = format_comparison(result)
    assert "50.0 %" in words and "0.27 pixels" in words


def test_kinds_are_counted_apart(catalogue, truth):
    result = compare_with_truth(catalogue, truth)
    quasar, supernova = count_kinds(result, catalogue, truth)
    assert (quasar.kind, quasar.n_expected, quasar.n_found, quasar.n_missed, quasar.n_below) == (
        "quasar",
        2,
        1,
        1,
        0,
    )
    assert quasar.flux_bias == pytest.approx(-0.05)
    assert (supernova.n_expected, supernova.n_found, supernova.n_below) == (2, 1, 1)
    lines = format_kinds([quasar, supernova], result.n_false).split("\n")
    assert lines[1].split() == ["quasar", "2", "1", "1", "0", "-5.0", "%"]
    assert lines[-1].split() == ["false", "detections", "1"]


def test_flux_of_blends_does_not_count(catalogue, truth):
    truth.add_row((14.0, 10.0, 90.0, 18.0, "quasar"))
    result = compare_with_truth(catalogue, truth)
    assert list(result.alone) == [False, True, True, True, True, True, False]
    assert result.n_found == 2 and result.flux_bias == pytest.approx(-0.05)
    assert result.n_alone == 1 and result.blend_pull_scatter == 0.0
    near = compare_with_truth(catalogue, truth, isolation=3.0)
    assert near.alone.all() and near.flux_bias == pytest.approx(0.0)


def test_nothing_found_and_nothing_there_are_no_errors(catalogue, truth):
    nothing = compare_with_truth(catalogue[:0], truth)
    assert nothing.n_found == 0 and nothing.completeness == 0.0 and np.isnan(nothing.flux_bias)
    empty = compare_with_truth(catalogue, truth[:0])
    assert empty.n_false == 5 and np.isnan(empty.completeness)
    assert "none" in format_comparison(empty)
    assert count_kinds(empty, catalogue, truth[:0]) == []
