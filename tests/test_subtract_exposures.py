"""The command subtractExposures.py: what it leaves for two files, and what it says of those it cannot use."""

import errno
import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from lsst.images import DifferenceImage, VisitImage
from plain_scenes import make_scene
from small_exposures import make_wcs

from lsst.twinkles.diffim.cli.subtract_exposures import main
from lsst.twinkles.diffim.pipeline.ids import DiaSourceIdFactory

TESTS = Path(__file__).parent
# An override file that puts stages in which take no time.
STUB_CONFIG = """\
from stub_stages import StubDetectionTask, StubMeasurementTask, StubSubtractTask

config.doDecorrelation = False
config.doScaleDiffimVariance = False
config.doSubtractBackground = False  # the stub leaves the sky, and the tests want it so
config.subtract.retarget(StubSubtractTask)
config.detection.retarget(StubDetectionTask)
config.measurement.retarget(StubMeasurementTask)
config.doFindCosmicRays = False  # the sources of these tests are single pixels
"""
RESULTS = {
    "config.py",
    "diaSources.parquet",
    "difference.fits",
    "difference.png",
    "matchedTemplate.fits",
    "summary.json",
}
GAIN = 1.5
# Where (x, y) the science exposure has a new source, or misses one, and its flux in pixel units.
CHANGES = [(60.0, 65.0, 4000.0), (200.0, 150.0, 6000.0), (130.0, 240.0, -5000.0)]


def gaussian(sigma, size=25):
    r = np.arange(size) - size // 2
    return np.exp(-(r[:, None] ** 2 + r**2) / (2 * sigma**2))


PSF_HDU = fits.ImageHDU(gaussian(2.0), name="PSF")


def stamp_star(image, x, y, flux, sigma):
    rows, columns = np.indices(image.shape)
    profile = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))
    image += flux * profile / (2 * np.pi * sigma**2)


def make_pair_arrays():
    """Return science and template pixels of one field: 2.0 and 1.5 pixels wide stars, the changes added."""
    common = {"shape": (300, 320), "n_stars": 36, "gain": GAIN, "read_noise": 0.0}
    rng = np.random.default_rng(12)
    images = []
    for sigma, sky in ((2.0, 500.0), (1.5, 350.0)):
        model = make_scene(sigma=sigma, sky=sky, **common).model
        for x, y, flux in CHANGES:
            if (flux > 0) == (sigma == 2.0):
                stamp_star(model, x, y, abs(flux), sigma)
        images.append((rng.poisson(model * GAIN) / GAIN).astype(np.float32))
    return images


def write(path, image, *, psf=2.0, **cards):
    """Write a plain file, with a PSF stamp of a width in pixels or without."""
    header = make_wcs(crpix=(160.0, 150.0)).to_header()
    header.update({"BUNIT": "adu", "GAIN": GAIN, "FILTER": "r", "EXPTIME": 30.0, **cards})
    header["DATE-OBS"] = "2023-02-03T04:05:06"
    hdus = [fits.PrimaryHDU(image, header=header)]
    if psf is not None:
        hdus.append(fits.ImageHDU(gaussian(psf), name="PSF"))
    fits.HDUList(hdus).writeto(path)
    return path


def write_pair(folder, *, with_psf):
    psfs = (2.0, 1.5) if with_psf else (None, None)
    names, visits = ("science.fits", "template.fits"), (7, 3)
    return [
        write(folder / name, image, psf=psf, VISIT=visit)
        for name, image, psf, visit in zip(names, make_pair_arrays(), psfs, visits, strict=True)
    ]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two plain FITS files with PSFs, which are quick to read."""
    return write_pair(tmp_path_factory.mktemp("pair"), with_psf=True)


@pytest.fixture(scope="module")
def bare_pair(tmp_path_factory):
    """Two plain FITS files with nothing but an image and a header."""
    return write_pair(tmp_path_factory.mktemp("bare"), with_psf=False)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory):
    """Override file."""
    path = tmp_path_factory.mktemp("stubs") / "stubs.py"
    path.write_text(STUB_CONFIG)
    return path


@pytest.fixture(scope="module")
def results(bare_pair, tmp_path_factory):
    """Directory that the command leaves for the pair, with its own configuration."""
    output = tmp_path_factory.mktemp("results") / "out"
    assert main([*map(str, bare_pair), "--output", str(output), "-L", "warn"]) == 0
    return output


def run(capsys, *arguments):
    """Run the command; return status, standard output and what it said to standard error."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        status = stop.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def is_clean(folder):
    """Tell whether a folder has nothing in it that a failed run might leave."""
    return not [path.name for path in folder.iterdir() if "unfinished" in path.name or path.name == "out"]


# What it leaves --------------------------------------------------------------


def test_all_results_are_there(results):
    assert {path.name for path in results.iterdir()} == RESULTS
    assert [path.name for path in results.parent.iterdir()] == ["out"]


def test_difference_is_read_by_lsst_images(results, pair):
    difference = DifferenceImage.read(str(results / "difference.fits"))
    assert difference.unit == u.adu and difference.variance.unit == u.adu**2
    assert difference.bbox.shape == (300, 320)
    normalised = difference.image.array / np.sqrt(difference.variance.array)
    good = np.isfinite(normalised)
    assert good.mean() > 0.95
    assert 1.4826 * np.median(np.abs(normalised[good])) == pytest.approx(1.0, abs=0.05)
    matched = VisitImage.read(str(results / "matchedTemplate.fits"))
    assert matched.bbox == difference.bbox


def test_difference_is_read_by_astropy(results):
    with fits.open(results / "difference.fits") as hdus:
        names = [hdu.name for hdu in hdus]
        assert {"IMAGE", "MASK", "VARIANCE"} <= set(names)
        assert hdus["IMAGE"].header["CTYPE1"] == "RA---TAN"


def test_sources_are_the_changes(results):
    table = Table.read(results / "diaSources.parquet")
    for x, y, flux in CHANGES:
        (row,) = table[np.hypot(table["x"] - x, table["y"] - y) < 1.0]
        assert bool(row["isNegative"]) == (flux < 0)
        assert row["psfFlux"] == pytest.approx(flux, abs=4 * float(row["psfFluxErr"]))
        assert 15 < abs(row["psfFlux"]) / row["psfFluxErr"] < 200
    assert len(table) < len(CHANGES) + 8  # with residuals of the bright stars


def test_every_column_that_has_a_dimension_has_a_unit(results):
    table = Table.read(results / "diaSources.parquet")
    units = {
        "x": u.pix,
        "raErr": u.deg,
        "scienceFlux": u.adu,
        "psfFlux": u.adu,
        "psfFluxErr": u.adu,
        "midpointMjdTai": u.d,
    }
    assert {name: table[name].unit for name in units} == units


def test_pandas_reads_the_sources(results):
    frame = pd.read_parquet(results / "diaSources.parquet")
    assert len(frame) == len(Table.read(results / "diaSources.parquet"))
    assert {"diaSourceId", "ra", "dec", "snr"} <= set(frame.columns)
    # Numbers that no other visit has: these are of visit 7.
    assert len(frame) > 0
    assert {DiaSourceIdFactory.unpack(number)[0] for number in frame["diaSourceId"]} == {7}


def test_summary(results, bare_pair):
    summary = json.loads((results / "summary.json").read_text())
    assert summary["inputs"]["science"]["file"] == str(bare_pair[0])
    assert summary["inputs"]["science"]["fwhmPixels"] == pytest.approx(2.355 * 2.0, rel=0.03)
    assert summary["inputs"]["template"]["fwhmPixels"] == pytest.approx(2.355 * 1.5, rel=0.03)
    assert "from the gain 1.5" in summary["inputs"]["science"]["made"]["madeVariance"]
    assert summary["unit"] == "adu" and summary["nNegative"] >= 1
    assert summary["nSources"] == len(Table.read(results / "diaSources.parquet"))
    assert summary["tasks"]["imageDifference"]["runCpuSeconds"] > 0
    assert "nodeName" not in summary["tasks"]["imageDifference"]


def test_picture(results):
    assert (results / "difference.png").read_bytes().startswith(b"\x89PNG")


def test_configuration_can_be_used_again(results, pair, tmp_path, capsys):
    status, out, _ = run(capsys, *pair, "--show", "config", "-C", results / "config.py")
    assert status == 0 and "config.convolveTemplate" in out
    kept = [line for line in (results / "config.py").read_text().splitlines() if line.startswith("config.")]
    assert kept == [line for line in out.splitlines() if line.startswith("config.")]


def test_files_of_lsst_images(stubs, results, pair, tmp_path, capsys):
    """The matched template as a template again, and an output that is there but empty."""
    (tmp_path / "out").mkdir()
    template = results / "matchedTemplate.fits"
    status, _, err = run(capsys, pair[0], template, "--output", tmp_path / "out", "-C", stubs)
    assert (status, err.count("error")) == (0, 0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS


# Options ---------------------------------------------------------------------


def test_overrides_apply_in_their_order(pair, tmp_path, capsys):
    (tmp_path / "o.py").write_text("config.growFootprint = 5\n")
    show = [*pair, "--show", "config"]
    _, first, _ = run(capsys, *show, "-c", "growFootprint=7", "-C", tmp_path / "o.py")
    _, last, _ = run(capsys, *show, "-C", tmp_path / "o.py", "-c", "growFootprint=7", "doMerge=False")
    assert "config.growFootprint=5" in first
    assert "config.growFootprint=7" in last and "config.doMerge=False" in last


def test_cookbook_override_file_loads(pair, capsys):
    cookbook = Path(__file__).parents[1] / "config" / "diffimconfig.py"
    status, out, _ = run(capsys, *pair, "--show", "config", "-C", cookbook)
    assert status == 0 and "config.doWriteMatchedExp=True" in out


def test_no_detection(stubs, pair, tmp_path, capsys):
    arguments = ("-C", stubs, "-c", "doDetection=False", "doMeasurement=False")
    status, out, _ = run(capsys, *pair, "--output", tmp_path / "out", *arguments)
    assert status == 0 and "no detection was asked for" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS - {"diaSources.parquet"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["nSources"] is None


def test_reading_options_for_either_exposure(stubs, tmp_path, capsys):
    science, template = make_pair_arrays()
    files = [tmp_path / "a.fits", tmp_path / "b.fits"]
    for path, image in zip(files, (science, template), strict=True):
        fits.HDUList(
            [fits.PrimaryHDU(), fits.ImageHDU(np.zeros((5, 5))), fits.ImageHDU(image, name="X"), PSF_HDU]
        ).writeto(path)
    options = ("--gain", "1.5", "3.0", "--zero-point", "27", "--hdu", "X", "2", "--band", "r", "i")
    status, _, err = run(capsys, *files, "--output", tmp_path / "out", "-C", stubs, *options)
    assert status == 0, err
    made = json.loads((tmp_path / "out" / "summary.json").read_text())["inputs"]
    assert "from the gain 1.5" in made["science"]["made"]["madeVariance"]
    assert "gain 3 " in made["template"]["made"]["madeVariance"]
    assert (made["science"]["band"], made["template"]["band"]) == ("r", "i")
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    assert float(difference.photometric_scaling(x=3.0, y=3.0)) == pytest.approx(3631e9 * 10 ** (-0.4 * 27))


def test_images_without_wcs_are_aligned(stubs, tmp_path, capsys, caplog):
    science, template = make_pair_arrays()
    fits.HDUList([fits.PrimaryHDU(science), PSF_HDU]).writeto(tmp_path / "a.fits")
    write(tmp_path / "b.fits", template)
    status, *_ = run(
        capsys, tmp_path / "a.fits", tmp_path / "b.fits", "--output", tmp_path / "out", "-C", stubs
    )
    assert status == 0 and "taken to be aligned pixel by pixel" in caplog.text
    header = fits.getheader(tmp_path / "out" / "difference.fits", "IMAGE")
    assert header["CRVAL1"] == pytest.approx(53.0)  # that of the one that has a WCS
    image = DifferenceImage.read(str(tmp_path / "out" / "difference.fits")).image.array
    np.testing.assert_allclose(image, science - template, rtol=1e-5)


@pytest.mark.parametrize("options, cards", [((), None), (("--register",), {"CRPIX1": 400.0})])
def test_stars_tell_where_an_exposure_lies(stubs, tmp_path, capsys, caplog, options, cards):
    """A part of the template, without a WCS or with a wrong one, is found by its stars."""
    science, template = make_pair_arrays()
    write(tmp_path / "a.fits", science)
    part = template[20:, 15:]
    if cards is None:
        fits.HDUList([fits.PrimaryHDU(part), PSF_HDU]).writeto(tmp_path / "b.fits")
    else:
        write(tmp_path / "b.fits", part, **cards)
    files = (tmp_path / "a.fits", tmp_path / "b.fits")
    status, _, err = run(capsys, *files, "--output", tmp_path / "out", "-C", stubs, *options)
    assert status == 0, err
    assert "registered by" in caplog.text
    difference = DifferenceImage.read(str(tmp_path / "out" / "difference.fits"))
    inside = np.s_[40:280, 40:300]
    left = difference.image.array[inside] - (science - template)[inside]
    # What the registration, good to some hundredths of a pixel, and the resampling leave of it.
    assert np.sqrt(np.mean(left**2)) < 0.05 * np.std((science - template)[inside])
    assert np.isnan(difference.image.array[:10]).all() and np.isfinite(difference.image.array[inside]).all()
    made = json.loads((tmp_path / "out" / "summary.json").read_text())["inputs"]["template"]["made"]
    assert "registered by" in made["registered"]


def test_aligned_ignores_the_wcs(stubs, tmp_path, capsys):
    science, template = make_pair_arrays()
    write(tmp_path / "a.fits", science)
    write(tmp_path / "b.fits", template, CRPIX1=1000.0)
    files = (tmp_path / "a.fits", tmp_path / "b.fits")
    status, _, err = run(capsys, *files, "--output", tmp_path / "out", "-C", stubs)
    assert status == 1 and "overlap" in err.lower() + "cover"
    status, *_ = run(capsys, *files, "--output", tmp_path / "out", "-C", stubs, "--aligned")
    assert status == 0
    inputs = json.loads((tmp_path / "out" / "summary.json").read_text())["inputs"]
    assert inputs["template"]["made"]["registered"] == "taken to be aligned pixel by pixel"


# Wrong command lines ---------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), "no output directory specified"),
        (("--output", "out", "-c", "noSuchField=1"), "noSuchField"),
        (("--output", "out", "-c", "growFootprint=-1"), "growFootprint"),
        (("--output", "out", "-c", "doPreConvolve=True"), "not built yet"),
        (("--output", "out", "-c", "growFootprint"), "form name=value"),
        (("--output", "out", "-C", "nosuch.py"), "cannot find configuration file 'nosuch.py'"),
        (("--output", "out", "--gain", "1", "2", "3"), "one value, or two"),
        (("--output", "out", "--gain", "lots"), "invalid float value"),
    ],
)
def test_wrong_command_line(pair, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *pair, *arguments)
    assert status == 2 and words in err
    assert list(tmp_path.iterdir()) == []


# Bad input -------------------------------------------------------------------


def fail(stubs, capsys, tmp_path, science, template, *options):
    """Run the command on input it has to refuse; return what it said."""
    status, _, err = run(capsys, science, template, "--output", tmp_path / "out", "-C", stubs, *options)
    assert status == 1
    assert is_clean(tmp_path)
    (line,) = [line for line in err.splitlines() if line.startswith("subtractExposures.py: error: ")]
    return line


def test_no_such_file(stubs, pair, tmp_path, capsys):
    message = fail(stubs, capsys, tmp_path, pair[0], tmp_path / "nosuch.fits")
    assert "nosuch.fits: there is no such file" in message


def test_truncated_file(stubs, pair, tmp_path, capsys):
    (tmp_path / "cut.fits").write_bytes(pair[0].read_bytes()[:100_000])
    assert "cut.fits" in fail(stubs, capsys, tmp_path, tmp_path / "cut.fits", pair[1])


def test_not_a_fits_file(stubs, pair, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("not an image at all\n")
    assert "it is not a FITS file" in fail(stubs, capsys, tmp_path, tmp_path / "a.txt", pair[1])


def test_same_file_twice(stubs, pair, tmp_path, capsys):
    assert "science exposure itself" in fail(stubs, capsys, tmp_path, pair[0], pair[0])


def test_another_band_when_that_is_refused(stubs, pair, tmp_path, capsys):
    message = fail(stubs, capsys, tmp_path, *pair, "--band", "i", "z", "-c", "requireSameBand=True")
    assert "band i" in message and "requireSameBand=False" in message


def test_all_pixels_nan(stubs, pair, tmp_path, capsys):
    write(tmp_path / "nan.fits", np.full((300, 320), np.nan, np.float32))
    assert "none of its pixels is finite" in fail(stubs, capsys, tmp_path, tmp_path / "nan.fits", pair[1])


def test_no_stars_for_the_psf(stubs, pair, tmp_path, capsys):
    write(tmp_path / "sky.fits", np.random.default_rng(0).normal(100, 9, (300, 320)).astype("f4"), psf=None)
    message = fail(stubs, capsys, tmp_path, tmp_path / "sky.fits", pair[1])
    assert "no isolated, unsaturated one" in message and "PSF (one stamp)" in message


def test_other_sky_of_another_size_without_wcs(stubs, pair, tmp_path, capsys):
    other = make_scene(shape=(280, 320), n_stars=40, gain=GAIN, seed=77).image
    fits.HDUList([fits.PrimaryHDU(other), PSF_HDU]).writeto(tmp_path / "small.fits")
    message = fail(stubs, capsys, tmp_path, pair[0], tmp_path / "small.fits")
    assert "320 x 300" in message and "320 x 280" in message and "stars" in message and "add a WCS" in message


def test_sizes_that_differ_cannot_be_aligned(stubs, pair, tmp_path, capsys):
    fits.HDUList([fits.PrimaryHDU(fits.getdata(pair[1])[:280]), PSF_HDU]).writeto(tmp_path / "small.fits")
    message = fail(stubs, capsys, tmp_path, pair[0], tmp_path / "small.fits", "--aligned")
    assert "320 x 280" in message and "cannot be --aligned" in message


def test_too_few_kernel_stars(stubs, pair, tmp_path, capsys):
    message = fail(stubs, capsys, tmp_path, *pair, "-c", "subtract.failVisits=[7]")
    assert "Too few stars" in message


# The directory ---------------------------------------------------------------


def test_foreign_directory_is_left_alone(stubs, pair, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    for options in ((), ("--clobber",)):
        status, _, err = run(capsys, *pair, "--output", tmp_path / "mine", "-C", stubs, *options)
        assert status == 1 and "no results of this command" in err
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_results_are_replaced_only_if_asked_for(stubs, pair, tmp_path, capsys):
    arguments = (*pair, "--output", tmp_path / "out", "-C", stubs)
    assert run(capsys, *arguments)[0] == 0
    before = (tmp_path / "out" / "difference.fits").stat().st_mtime_ns
    status, _, err = run(capsys, *arguments)
    assert status == 1 and "--clobber" in err
    assert (tmp_path / "out" / "difference.fits").stat().st_mtime_ns == before
    assert run(capsys, *arguments, "--clobber")[0] == 0
    assert (tmp_path / "out" / "difference.fits").stat().st_mtime_ns > before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failed_run_keeps_earlier_results(stubs, pair, tmp_path, capsys):
    arguments = (*pair, "--output", tmp_path / "out", "-C", stubs)
    assert run(capsys, *arguments)[0] == 0
    status, *_ = run(capsys, *arguments, "--clobber", "-c", "subtract.failVisits=[7]")
    assert status == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS


def test_output_that_holds_an_input(stubs, pair, tmp_path, capsys):
    status, _, err = run(capsys, *pair, "--output", pair[0].parent, "-C", stubs, "--clobber")
    assert status == 1 and "holds one of the exposures" in err
    assert {path.name for path in pair[0].parent.iterdir()} == {"science.fits", "template.fits"}


def test_output_is_a_file(stubs, pair, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    status, _, err = run(capsys, *pair, "--output", tmp_path / "file", "-C", stubs)
    assert status == 1 and "it is a file" in err


def test_output_cannot_be_made(stubs, pair, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    status, _, err = run(capsys, *pair, "--output", tmp_path / "file" / "out", "-C", stubs)
    assert status == 1 and f"cannot write {tmp_path / 'file' / 'out'}" in err


def test_full_disk(stubs, pair, tmp_path, capsys, monkeypatch):
    def write_half(self, path, *args, **kwargs):
        Path(path).write_bytes(b"SIMPLE")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(VisitImage, "write", write_half)
    assert "No space left on device" in fail(stubs, capsys, tmp_path, *pair)


def test_a_bug_leaves_nothing(stubs, pair, tmp_path):
    """It is not hidden: the traceback is what its finder has to report."""
    arguments = [*map(str, pair), "--output", str(tmp_path / "out"), "-C", str(stubs)]
    with pytest.raises(ZeroDivisionError):
        main([*arguments, "-c", "subtract.bugVisits=[7]"])
    assert is_clean(tmp_path)


def start(pair, output, stubs):
    """Start the command in a process of its own, with a subtraction that lasts."""
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
        "from lsst.twinkles.diffim.cli.subtract_exposures import main\nsys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, *map(str, pair), "--output", str(output), "-C", str(stubs)]
    return subprocess.Popen(
        [*command, "-c", "subtract.sleepVisits=[7]"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_until_at_work(process, folder):
    """Wait until the hidden directory is there and the exposures were read."""
    for line in process.stderr:
        if "template.fits" in line and "mask made" in line:
            break
    for _ in range(100):
        if any("unfinished" in path.name for path in folder.iterdir()):
            return
        time.sleep(0.05)
    raise AssertionError("the command did not get to work")


def test_interrupt(stubs, pair, tmp_path, capsys):
    options = ("--output", tmp_path / "out", "-C", stubs, "-c", "subtract.signalVisits=[7]")
    status, _, err = run(capsys, *pair, *options)
    assert status == 130 and "interrupted; nothing was written" in err
    assert is_clean(tmp_path)


@pytest.mark.slow
def test_interrupt_of_a_process(stubs, pair, tmp_path):
    process = start(pair, tmp_path / "out", stubs)
    wait_until_at_work(process, tmp_path)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "interrupted; nothing was written" in err
    assert is_clean(tmp_path)


def test_the_next_run_cleans_up_after_a_kill(stubs, pair, tmp_path, capsys):
    process = start(pair, tmp_path / "out", stubs)
    wait_until_at_work(process, tmp_path)
    process.kill()
    process.communicate(timeout=30)
    assert not (tmp_path / "out").exists() and not is_clean(tmp_path)
    assert run(capsys, *pair, "--output", tmp_path / "out", "-C", stubs)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_directory_of_a_living_process_is_left_alone(stubs, pair, tmp_path, capsys):
    other = tmp_path / ".out.unfinished.other"
    other.mkdir()
    with (other / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run(capsys, *pair, "--output", tmp_path / "out", "-C", stubs)[0] == 0
        assert other.is_dir()
