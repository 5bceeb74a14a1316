"""Exposures into a repository: each wholly or not at all."""

import errno
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from lsst.daf.butler import Butler
from lsst.images import DifferenceImage, Image
from lsst.sphgeom import UnitVector3d
from repositories import (
    file_size_limit,
    files_below,
    leaky_butler,
    make_image,
    make_read_only,
    public_directory,
    snapshot,
    without_privileges,
)
from small_exposures import make_wcs

from lsst.twinkles.diffim.cli import ingest
from lsst.twinkles.diffim.pipeline import staging
from lsst.twinkles.diffim.pipeline.ingest import (
    ExposureExistsError,
    ExposureIngester,
    ingest_visit_image,
)
from lsst.twinkles.diffim.pipeline.repository import create_repository
from lsst.twinkles.diffim.pipeline.staging import OutputWriteError
from lsst.twinkles.diffim.pipeline.visit_records import VisitConflictError

STORED = "TwinklesCam/calexp/v1-fr/calexp-d94.fits"


@pytest.fixture(autouse=True)
def levels():
    """Undo what the command does to the log."""
    logger = logging.getLogger("lsst.twinkles")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """An empty repository, to be copied."""
    root = tmp_path_factory.mktemp("blank") / "repo"
    create_repository(root).close()
    return root


@pytest.fixture
def repo(blank, tmp_path):
    return Path(shutil.copytree(blank, tmp_path / "repo"))


def write(directory, visit, **kwargs):
    """Write an exposure as lsst.images does."""
    path = directory / f"visit-{visit}.fits"
    make_image(visit, visit=visit, **kwargs).write(str(path))
    return path


def write_plain(path, *, seed=0, **cards):
    """Write a plain FITS file: image, mask, variance, PSF and WCS; return its image."""
    rng = np.random.default_rng(seed)
    image = rng.normal(100.0, 10.0, (40, 50)).astype(np.float32)
    header = make_wcs(crpix=(25.0, 20.0)).to_header()
    header.update({"BUNIT": "adu", "FILTER": "r", "EXPTIME": 30.0, "MJD-OBS": 60000.25, **cards})
    mask = np.zeros(image.shape, dtype=np.int32)
    mask[3, 4] = 1
    y, x = np.mgrid[-10:11, -10:11]
    psf = np.exp(-(x**2 + y**2) / (2 * 1.8**2))
    fits.HDUList(
        [
            fits.PrimaryHDU(image, header),
            fits.ImageHDU(mask, fits.Header({"MP_BAD": 0}), name="MASK"),
            fits.ImageHDU(np.full(image.shape, 100.0, np.float32), name="VARIANCE"),
            fits.ImageHDU(psf / psf.sum(), name="PSF"),
        ]
    ).writeto(path)
    return image


def run(*arguments):
    """Run ingestExposures.py."""
    return ingest.main([str(argument) for argument in arguments])


def contents(repo):
    """Return the visits in a repository; each must be readable, and no file may lie about."""
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        refs = butler.query_datasets("calexp", explain=False)
        for ref in refs:
            assert np.isfinite(butler.get(ref).image.array).all()
        paths = {str(Path(butler.getURI(ref).ospath).relative_to(repo.resolve())) for ref in refs}
    assert files_below(repo) == paths
    return sorted(ref.dataId["visit"] for ref in refs)


# What goes in comes out


def test_an_exposure_comes_back_as_it_was(repo):
    image = make_image(5, visit=230, band="i", unit=u.adu)
    with Butler.from_config(repo, writeable=True) as butler:
        ref = ingest_visit_image(butler, image)
        back = butler.get(ref)
        data_id = butler.registry.expandDataId(ref.dataId)
    np.testing.assert_array_equal(back.image.array, image.image.array)
    np.testing.assert_array_equal(back.variance.array, image.variance.array)
    assert back.unit == u.adu
    assert (data_id["visit"], data_id["detector"], data_id["band"]) == (230, 94, "i")


def test_region_ends_at_the_outer_pixel_edges(repo):
    image = make_image(1, visit=1, size=40)
    with Butler.from_config(repo, writeable=True) as butler:
        region = butler.registry.expandDataId(ingest_visit_image(butler, image).dataId).region
    inside = [(20, 20), (20, -0.49), (20, 39.49), (-0.49, 20), (39.49, 20)]
    outside = [(20, -0.51), (20, 39.51), (-0.51, 20), (39.51, 20)]
    for x, y in inside + outside:
        sky = image.sky_projection.pixel_to_sky(x=float(x), y=float(y))
        vector = UnitVector3d(*map(float, sky.icrs.cartesian.xyz.value))
        assert region.contains(vector) is ((x, y) in inside)


def test_a_plain_file_keeps_pixels_unit_mask_and_zero_point(repo, tmp_path):
    image = write_plain(tmp_path / "plain.fits", VISIT=77, MAGZERO=27.0)
    assert run(repo, tmp_path / "plain.fits") == 0
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        (ref,) = butler.query_datasets("calexp", with_dimension_records=True)
        exposure = butler.get(ref)
    np.testing.assert_array_equal(exposure.image.array, image)
    assert (ref.dataId["visit"], ref.dataId["band"], exposure.unit) == (77, "r", u.adu)
    assert np.argwhere(exposure.mask.get("BAD")).tolist() == [[3, 4]]
    # 27 is 3631 Jy / 10**10.8.
    assert exposure.photometric_scaling(x=1.0, y=1.0) == pytest.approx(3631e9 / 10**10.8)
    assert exposure.photometric_scaling.unit == u.nJy / u.adu
    timespan = ref.dataId.records["visit"].timespan
    assert (timespan.end - timespan.begin).to_value("s") == pytest.approx(30.0, abs=1e-3)
    assert ref.dataId["day_obs"] == 20230224  # MJD 60000.25 is before noon of 2023-02-25


def test_what_the_command_line_says_about_a_plain_file_holds(repo, tmp_path):
    write_plain(tmp_path / "plain.fits", MAGZERO=27.0, EXPNUM=5)
    options = ("--visit", 9, "--band", "z", "--filter", "z_20", "--zero-point", 25)
    assert run(repo, tmp_path / "plain.fits", *options) == 0
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        (ref,) = butler.query_datasets("calexp", with_dimension_records=True)
        exposure = butler.get(ref)
    assert (ref.dataId["visit"], ref.dataId["band"], ref.dataId["physical_filter"]) == (9, "z", "z_20")
    assert exposure.photometric_scaling(x=1.0, y=1.0) == pytest.approx(363.1)


def test_a_file_without_a_filter_is_taken_with_a_warning(repo, tmp_path, caplog):
    write_plain(tmp_path / "plain.fits", VISIT=1, FILTER="")
    assert run(repo, tmp_path / "plain.fits") == 0
    assert 'plain.fits: no filter is named in the file: band "unknown"; give one with --band' in caplog.text
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        (ref,) = butler.query_datasets("calexp", with_dimension_records=True)
    assert ref.dataId["band"] == "unknown"


def test_visit_numbers_count_up_from_the_option(repo, tmp_path):
    for name in "ab":
        write_plain(tmp_path / f"{name}.fits")
    assert run(repo, tmp_path / "a.fits", tmp_path / "b.fits", "--visit", 10) == 0
    assert contents(repo) == [10, 11]


def test_visit_numbers_come_from_a_keyword(repo, tmp_path, caplog):
    write_plain(tmp_path / "a.fits", NIGHTNUM=12)
    write_plain(tmp_path / "b.fits", NIGHTNUM="x")
    write_plain(tmp_path / "c.fits")
    files = [tmp_path / f"{name}.fits" for name in "abc"]
    assert run(repo, *files, "--visit-key", "NIGHTNUM") == 2
    assert contents(repo) == [12]
    assert "the keyword NIGHTNUM is 'x' and not a whole number" in caplog.text
    assert "no header has the keyword NIGHTNUM" in caplog.text


@pytest.mark.parametrize("compression", ["fast", "lossless"])
def test_exact_compressions_are_exact(repo, tmp_path, compression):
    image = make_image(1, visit=1, size=150)
    image.mask.set("SATURATED", image.image.array > 30)
    image.write(str(tmp_path / "image.fits"))
    assert run(repo, tmp_path / "image.fits", "--compression", compression) == 0
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        stored = butler.get(butler.query_datasets("calexp")[0])
    np.testing.assert_array_equal(stored.image.array, image.image.array)
    np.testing.assert_array_equal(stored.mask.get("SATURATED"), image.image.array > 30)


def test_lossy_compression_adds_a_small_part_of_the_noise(repo, tmp_path):
    image = make_image(1, visit=1, size=150)
    image.write(str(tmp_path / "image.fits"))
    assert run(repo, tmp_path / "image.fits", "--compression", "lossy") == 0
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        stored = butler.get(butler.query_datasets("calexp")[0])
    error = stored.image.array - image.image.array
    # Steps of 1/16 of the noise of 10 have an rms of 1/sqrt(12) of that.
    assert 0.5 < error.std() / (10 / 16 / np.sqrt(12)) < 2


def test_a_list_of_files_and_a_run_of_its_own(repo, tmp_path):
    paths = [write(tmp_path, visit) for visit in (1, 2)]
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in paths))
    assert run(repo, f"@{tmp_path}/list", "--run", "u/me/calexp") == 0
    assert contents(repo) == [1, 2]
    with Butler.from_config(repo) as butler:
        assert butler.collections.get_info("TwinklesCam/defaults").children == ("u/me/calexp",)


@pytest.mark.slow
def test_real_stacks_of_another_camera(repo, shared_data):
    files = sorted((shared_data / "real" / "sfft_decam").glob("Stack-*.fits"))
    assert run(repo, *files, "--visit", 1) == 0
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        refs = butler.query_datasets("calexp", with_dimension_records=True)
        regions = [ref.dataId.region for ref in refs]
    assert [(ref.dataId["visit"], ref.dataId["band"]) for ref in refs] == [(1, "i"), (2, "i")]
    assert {ref.dataId["physical_filter"] for ref in refs} == {"i DECam SDSS c0003 7835.0 1470.0"}
    assert regions[0].intersects(regions[1])


# Files that cannot be taken


def test_bad_files_are_counted_and_do_no_harm_to_the_others(repo, tmp_path, capsys, caplog):
    whole = write(tmp_path, 1).read_bytes()
    bad = {
        "half.fits": (whole[: len(whole) // 2], "not a readable FITS file|cut short"),
        "almost.fits": (whole[: int(0.9 * len(whole))], "cut short"),
        "letter.fits": (b"Dear Sir", "not a FITS file"),
        "empty.fits": (b"", "the file is empty"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    Image(np.zeros((9, 9), np.float32)).write(str(tmp_path / "image.fits"))
    write_plain(tmp_path / "unnumbered.fits")
    write_plain(tmp_path / "plain.fits", VISIT=3)
    cut = (tmp_path / "plain.fits").read_bytes()[:6000]
    (tmp_path / "plain-cut.fits").write_bytes(cut)
    names = [*bad, "image.fits", "unnumbered.fits", "nowhere.fits", "plain-cut.fits"]
    files = [tmp_path / "visit-1.fits", *(tmp_path / name for name in names), write(tmp_path, 2)]
    assert run(repo, *files) == len(names)
    assert contents(repo) == [1, 2]
    assert f"2 of {len(files)} exposures (visit 1, 2); {len(names)} failed" in capsys.readouterr().out
    messages = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(messages) == len(names)
    for name in names:
        assert sum(f"{tmp_path}/{name}" in message for message in messages) == 1
    assert any("give one with --visit" in message for message in messages)
    assert any("there is no such file" in message for message in messages)


def test_a_difference_image_is_no_exposure(repo):
    image = make_image(1, visit=1)
    difference = DifferenceImage(
        image.image,
        mask=image.mask,
        variance=image.variance,
        obs_info=image.obs_info,
        psf=image.psf,
        detector=image.detector,
        band="r",
    )
    refusal = pytest.raises(ValueError, match="this is a difference image")
    with Butler.from_config(repo, writeable=True) as butler, refusal:
        ingest_visit_image(butler, difference)
    assert contents(repo) == []


@pytest.mark.parametrize("visit", [-1, 10**13])
def test_a_visit_number_out_of_range_is_refused(repo, tmp_path, caplog, visit):
    assert run(repo, write(tmp_path, 1), f"--visit={visit}") == 1
    assert f"visit must be in 0 .. 9999999999999, got {visit}" in caplog.text
    assert contents(repo) == []


def test_without_a_repository_all_files_fail(tmp_path, capsys):
    files = [write(tmp_path, visit) for visit in (1, 2)]
    assert run(tmp_path / "repo", *files) == 2
    assert "is not a directory; give that of a Butler repository" in capsys.readouterr().err
    (tmp_path / "repo").mkdir()
    assert run(tmp_path / "repo", *files) == 2
    assert "make one with makeTwinklesRepo.py" in capsys.readouterr().err


def test_the_status_stays_below_those_of_the_shell(tmp_path):
    assert run(tmp_path / "repo", *["x.fits"] * 300) == 125


@pytest.mark.parametrize(
    "arguments", [(), ("repo",), ("repo", "a", "--replace", "--skip-existing"), ("repo", "a", "--gain", "x")]
)
def test_a_wrong_command_line_is_told(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "ingestExposures.py: error:" in capsys.readouterr().err


# The same visit again


def test_a_visit_that_is_there_is_refused_skipped_or_replaced(repo, tmp_path, caplog, capsys):
    first = write(tmp_path, 1)
    second = tmp_path / "second.fits"
    make_image(99, visit=1).write(str(second))
    assert run(repo, first) == 0
    before = snapshot(repo)
    assert run(repo, second) == 1
    assert "visit 1 is in run TwinklesCam/calexp already; give --replace, --skip-existing" in caplog.text
    assert run(repo, second, "--skip-existing") == 0
    assert "0 of 1 exposures; 1 were there already" in capsys.readouterr().out
    assert snapshot(repo)[STORED] == before[STORED]
    assert run(repo, second, "--replace") == 0
    assert contents(repo) == [1]
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        stored = butler.get(butler.query_datasets("calexp")[0])
    np.testing.assert_array_equal(stored.image.array, make_image(99, visit=1).image.array)


def test_a_file_given_twice_is_there_once(repo, tmp_path):
    path = write(tmp_path, 1)
    assert run(repo, path, path) == 1
    assert contents(repo) == [1]
    assert run(repo, path, path) == 2


def test_another_filter_for_a_visit_is_refused_but_can_replace_it(repo, tmp_path, caplog):
    assert run(repo, write(tmp_path, 1, band="r")) == 0
    other = tmp_path / "other.fits"
    make_image(1, visit=1, band="i").write(str(other))
    assert run(repo, other, "--run", "another") == 1
    assert "visit 1 is in this repository with filter 'r', the image says 'i'" in caplog.text
    assert run(repo, other, "--replace") == 0
    with Butler.from_config(repo, collections="TwinklesCam/defaults") as butler:
        (ref,) = butler.query_datasets("calexp", with_dimension_records=True)
    assert ref.dataId["band"] == "i"
    assert contents(repo) == [1]


def test_only_the_guilty_one_of_a_batch_fails(repo):
    with Butler.from_config(repo, writeable=True) as butler:
        ingest_visit_image(butler, make_image(2, visit=2, band="r"))
        with ExposureIngester(butler, run="another") as ingester:
            for visit, band in ((1, "r"), (2, "g"), (3, "r")):
                ingester.add(make_image(visit, visit=visit, band=band), label=f"file {visit}")
    assert [ref.dataId["visit"] for ref in ingester.report.ingested] == [1, 3]
    assert list(ingester.report.failed) == ["file 2"]
    assert isinstance(ingester.report.failed["file 2"], VisitConflictError)


def test_a_filter_keeps_its_band(repo, tmp_path, caplog):
    write_plain(tmp_path / "plain.fits", VISIT=1, FILTER="r")
    assert run(repo, tmp_path / "plain.fits", "--band", "g", "--filter", "r") == 1
    assert "filter 'r' is of band 'r' in this repository, the image says 'g'" in caplog.text
    assert contents(repo) == []


def test_library_call_raises(repo):
    with Butler.from_config(repo, writeable=True) as butler:
        ingest_visit_image(butler, make_image(visit=1))
        assert ingest_visit_image(butler, make_image(visit=1), on_existing="skip") is None
        with pytest.raises(ExposureExistsError):
            ingest_visit_image(butler, make_image(visit=1))


# Disks and interrupts


def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(repo, tmp_path, caplog):
    files = [write(tmp_path, 1), write(tmp_path, 2, size=800), write(tmp_path, 3)]
    with file_size_limit((repo / "gen3.sqlite3").stat().st_size + 100_000):
        assert run(repo, *files) == 2
    assert contents(repo) == [1]
    assert "Cannot write calexp {instrument: 'TwinklesCam', detector: 94, visit: 2" in caplog.text
    assert "nothing of it was kept; free space or choose another output directory" in caplog.text
    assert f"{files[2]}: not tried" in caplog.text
    assert run(repo, *files, "--skip-existing") == 0
    assert contents(repo) == [1, 2, 3]


def test_a_database_that_cannot_grow_keeps_nothing(repo, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Butler.from_config(repo, writeable=True) as butler:
        monkeypatch.setattr(type(butler), "ingest", fail)
        with pytest.raises(OutputWriteError, match="No space left"):
            ingest_visit_image(butler, make_image(visit=1))
        monkeypatch.undo()
        assert butler.query_dimension_records("visit", explain=False) == []
    assert contents(repo) == []


def test_a_read_only_repository_is_refused(capsys):
    with public_directory() as root:
        create_repository(root / "repo").close()
        path = write(root, 1)
        make_read_only(root)
        before = snapshot(root)
        with without_privileges(), leaky_butler():
            assert run(root / "repo", path) == 1
        assert snapshot(root) == before
    assert f"Cannot write to repository {root}/repo" in capsys.readouterr().err


def test_an_interrupt_keeps_what_is_complete_and_a_second_call_goes_on(repo, tmp_path, monkeypatch, capsys):
    files = [write(tmp_path, visit) for visit in (1, 2, 3)]
    real, calls = staging.write_archive, []

    def interrupted(image, path, **kwargs):
        real(image, path, **kwargs)
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(staging, "write_archive", interrupted)
        assert run(repo, *files) == 130
    assert "--skip-existing goes on from here" in capsys.readouterr().err
    assert contents(repo) == [1]
    assert run(repo, *files, "--skip-existing") == 0
    assert contents(repo) == [1, 2, 3]


_KILLED = """
import os, signal, sys
from lsst.daf.butler import Butler
from lsst.twinkles.diffim.cli import ingest
from lsst.twinkles.diffim.pipeline import staging

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

{where} = die
ingest.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "where", [pytest.param("staging.write_archive", marks=pytest.mark.slow), "staging.FileDataset"]
)
def test_a_killed_process_leaves_nothing_visible_and_the_next_cleans_up(repo, tmp_path, monkeypatch, where):
    path = write(tmp_path, 1)
    code = _KILLED.format(where=where)
    done = subprocess.run([sys.executable, "-c", code, str(repo), str(path)], capture_output=True)
    assert done.returncode == -9, done.stderr
    with Butler.from_config(repo) as butler:
        assert butler.query_datasets("calexp", collections="*", find_first=False, explain=False) == []
    monkeypatch.setattr(staging, "_LOCK_GRACE_S", 0.0)
    assert run(repo, path) == 0
    assert contents(repo) == [1]


def test_two_processes_at_the_same_time_both_get_their_share(repo, tmp_path):
    shares = [[write(tmp_path, visit) for visit in visits] for visits in ((1, 2, 3), (4, 5, 6))]
    code = "import sys; from lsst.twinkles.diffim.cli import ingest; sys.exit(ingest.main(sys.argv[1:]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(repo), *map(str, share)], stderr=subprocess.PIPE)
        for share in shares
    ]
    assert [p.communicate()[1].decode() for p in processes] == ["", ""]
    assert [p.returncode for p in processes] == [0, 0]
    assert contents(repo) == [1, 2, 3, 4, 5, 6]


def test_a_staging_directory_in_use_is_left_alone(repo, monkeypatch):
    monkeypatch.setattr(staging, "_LOCK_GRACE_S", 0.0)
    with Butler.from_config(repo, writeable=True) as butler, ExposureIngester(butler) as first:
        first.add(make_image(1, visit=1))
        ingest_visit_image(butler, make_image(2, visit=2))
    assert contents(repo) == [1, 2]


def test_help_does_not_wait_for_the_framework():
    code = (
        "import sys; from lsst.twinkles.diffim.cli import ingest, make_repo, simulate;"
        "print([m for m in ('numpy', 'astropy', 'lsst.images', 'lsst.daf.butler') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
