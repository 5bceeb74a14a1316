"""imageDifference.py: what it reads, writes and says. The stages are stubs here."""

import contextlib
import errno
import io
import os
import pstats
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from astropy.io import fits
from astropy.table import Table
from command_runs import (
    HERE,
    TRANSIENT,
    command,
    config_file,
    copy_of_repository,
    dataset_id,
    difference_of,
    fetch,
    pair_words,
    repository,
    stored,
    visits_done,
)
from lsst.daf.butler import Butler
from lsst.images import DifferenceImage, VisitImage
from repositories import make_read_only, make_writeable, public_directory, snapshot, without_privileges
from small_exposures import draw_stars, make_exposure

from lsst.twinkles.diffim.cli.image_difference import MAX_STATUS, main
from lsst.twinkles.diffim.pipeline import staging
from lsst.twinkles.diffim.pipeline.ids import DiaSourceIdFactory
from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import RepositoryError, create_repository

COOKBOOK = str(HERE.parent / "config" / "diffimconfig.py")
RESULTS = ["diaSrc", "differenceExp", "matchedExp", "metadata", "metrics", "spatiallySampledMetrics"]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Output repository of visit 230 minus visit 250, and the run that made it."""
    out = tmp_path_factory.mktemp("done") / "out"
    run = command(*pair_words(out), "-C", COOKBOOK, "-c", "doDecorrelation=False", versions=True)
    assert run.status == 0, run.stderr
    return out, run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


# The results ---------------------------------------------------------------------------------


def test_results_of_the_cookbooks_command(done):
    out, run = done
    per_visit = [(f"deepDiff_{name}", 230) for name in RESULTS]
    assert stored(out) == sorted(
        [*per_visit, ("deepDiff_config", None), ("deepDiff_packages", None)], key=lambda item: item[0]
    )
    assert run.stdout == ""
    assert run.lines("[1/1]", "'visit': 230", "is done in", "1 sources")
    assert run.lines("Of 1 data ids: 1 done", str(out))


def test_difference_and_its_template(done):
    difference = fetch(done[0], "differenceExp", 230)
    assert isinstance(difference, DifferenceImage)
    np.testing.assert_array_equal(difference.image.array, difference_of(230, 250))
    (template,) = difference.templates
    assert (template.tract, template.patch, template.skymap) == (250, 94, "visit")
    assert template.dataset_run == "TwinklesCam/calexp"
    matched = fetch(done[0], "matchedExp", 230)
    assert isinstance(matched, VisitImage)
    assert matched.obs_info.visit_id == 250


def test_plain_readers_open_the_files(done):
    folder = done[0] / "deepDiff" / "v230-fi" / "R22"
    with fits.open(folder / "diffexp-S11.fits") as hdus:
        np.testing.assert_array_equal(hdus["IMAGE"].data, difference_of(230, 250))
        inputs = [hdus[0].header[f"HIERARCH LSST BUTLER INPUT {n} ID"] for n in range(2)]
    run = fetch(done[0], "metadata", 230).to_dict()["run"]
    assert inputs == [run["scienceId"], run["templateId"]] == [dataset_id(230), dataset_id(250)]
    table = Table.read(folder / "diaSrc-S11.parq")
    assert [str(table[name].unit) for name in ("x", "y", "psfFlux")] == ["pix", "pix", "nJy"]
    assert len(pandas.read_parquet(folder / "diaSrc-S11.parq")) == 1


def test_sources_have_identifiers_of_their_visit(done):
    table = fetch(done[0], "diaSrc", 230)
    assert (table["x"][0], table["y"][0]) == TRANSIENT
    assert DiaSourceIdFactory.unpack(table["diaSourceId"][0]) == (230, 94, 1)


def test_config_versions_and_metadata(done):
    config = fetch(done[0], "config")
    assert config.doWriteMatchedExp is True and config.subtract.target.__name__ == "StubSubtractTask"
    assert fetch(done[0], "packages")["numpy"] == np.__version__
    metadata = fetch(done[0], "metadata", 230).to_dict()
    assert metadata["run"]["templateVisit"] == 250
    assert metadata["run"]["products"] == [name for name in RESULTS if name != "metadata"]
    assert metadata["imageDifference"]["nDiaSources"] == 1
    assert "processId" in metadata["imageDifference:subtract"]


def test_the_configuration_says_what_is_written_and_with_which_prefix(out):
    words = [
        "coaddName=goodSeeing",
        "doWriteWarpedExp=True",
        "doWriteMatchedExp=False",
        "doWriteSources=False",
    ]
    run = command(*pair_words(out), "-c", *words)
    assert run.status == 0
    kinds = ("differenceExp", "metadata", "metrics", "spatiallySampledMetrics", "warpedExp")
    names = [f"goodSeeingDiff_{kind}" for kind in kinds]
    assert [name for name, visit in stored(out) if visit] == names


def test_without_detection_there_is_no_catalogue(out):
    words = ["doDetection=False", "doMeasurement=False", "doWriteSubtractedExp=False"]
    run = command(*pair_words(out), "-c", *words)
    assert run.status == 0 and run.lines("is done in", "no detection")
    kinds = ("matchedExp", "metadata", "metrics", "spatiallySampledMetrics")
    assert [name for name, visit in stored(out) if visit] == [f"deepDiff_{kind}" for kind in kinds]


def test_the_butler_command_lists_the_results(done):
    words = ["query-datasets", str(done[0]), "deepDiff_diaSrc", "--collections", "deepDiff"]
    butler = Path(sys.executable).with_name("butler")
    result = subprocess.run([butler, *words], capture_output=True, text=True, check=True)
    assert re.search(r"TwinklesCam +94 +230", result.stdout)


def test_the_input_is_not_touched_and_may_be_read_only(tmp_path):
    with public_directory() as root:
        repo = copy_of_repository(root / "repo")
        make_read_only(repo)
        before = snapshot(repo)
        (root / "work").mkdir(mode=0o777)
        (root / "work").chmod(0o777)
        (root / "stubs.py").write_text(Path(config_file()).read_text())
        try:
            with without_privileges():
                run = command(
                    *pair_words(root / "work" / "out"), "-C", root / "stubs.py", repo=repo, config=False
                )
            assert run.status == 0, run.stderr
            assert snapshot(repo) == before
        finally:
            make_writeable(repo)


def test_cookbook_with_the_real_stages(tmp_path):
    """Visit 230 is wider than 250 and has one thing more: that is what is found, at its flux."""
    rng = np.random.default_rng(5)
    stars, (x, y), flux = rng.uniform(20, 236, (40, 2)), (128.3, 90.6), 2e4
    with create_repository(tmp_path / "repo") as butler, ExposureIngester(butler) as ingester:
        for visit, sigma in ((230, 2.4), (250, 1.8)):
            image = rng.normal(0.0, 10.0, (256, 256))
            for position, brightness in zip(stars, np.geomspace(1e4, 1e6, 40), strict=True):
                image += draw_stars(image.shape, [position], sigma=sigma, flux=brightness)
            if visit == 230:
                image += draw_stars(image.shape, [(x, y)], sigma=sigma, flux=flux)
            ingester.add(make_exposure(image, visit=visit, band="i", sigma=sigma))
    out = tmp_path / "out"
    run = command(*pair_words(out), "-C", COOKBOOK, repo=tmp_path / "repo", config=False)
    assert run.status == 0, run.stderr
    difference = fetch(out, "differenceExp", 230)
    assert difference.kernel is not None and difference.psf is not None
    assert [info.tract for info in difference.templates] == [250]
    table = fetch(out, "diaSrc", 230)
    (source,) = table[np.hypot(table["x"] - x, table["y"] - y) < 1.0]
    assert abs(source["psfFlux"] - flux) < 5 * source["psfFluxErr"] < 0.2 * flux


# Data ids ------------------------------------------------------------------------------------


def test_forms_of_a_data_id_and_one_that_is_not_there(out):
    first = ["--id", "visit=230..232:2^999", "ccd=R22_S11"]
    second = ["--id", "visit=231", "sensor=1,1", "raft=2,2"]
    run = command(*first, *second, "--templateId", "visit=250", "--output", out)
    assert run.status == 0
    assert visits_done(out) == [230, 231, 232]
    assert run.lines(
        "No data found for dataId={'visit': 999, 'ccd': 'R22_S11'}", str(repository()), "skipped"
    )


def test_a_bare_id_takes_everything_but_the_template_itself(out):
    run = command("--id", "--templateId", "visit=250", "--output", out)
    assert visits_done(out) == [230, 231, 232, 251]
    assert run.lines("The template", "'visit': 250", "is not subtracted from itself")
    # Visit 240 lies elsewhere: nothing to do is no failure.
    assert run.lines("Nothing to do for dataId", "'visit': 240", "does not overlap")
    assert run.status == 0


def test_a_data_id_given_twice_is_processed_once(out):
    run = command(*pair_words(out), "--id", "visit=230", "--show", "data", "run")
    assert run.status == 0
    assert run.stdout.count("\nid dataRef.dataId = ") == 1
    assert run.lines("[1/1]")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--id", "vizit=230"], "Unrecognized ID key 'vizit'; valid keys are: ['band', 'ccd',"),
        (["--id", "visit=abc"], "Cannot cast value 'abc' to int for ID key 'visit'"),
        (["--id", "visit=230", "--templateId", "visit=x"], "Cannot cast value 'x'"),
    ],
)
def test_data_ids_that_cannot_be_understood(out, words, message):
    run = command(
        *words, *([] if "--templateId" in words else ["--templateId", "visit=250"]), "--output", out
    )
    assert run.status == 2
    assert message in run.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("ids", "status"),
    [
        (["--id", "visit=999"], 1),
        (["--id", "visit=999", "--noExit"], 0),
        ([], 0),
    ],
)
def test_nothing_is_left_to_process(out, ids, status):
    run = command(*ids, "--templateId", "visit=250", "--output", out)
    assert run.lines(
        "Not running the task because there is no data to process; you may preview data using", "--show data"
    )
    assert run.status == status
    assert not out.exists()


def test_template_is_the_science_exposure(out):
    run = command(*pair_words(out, 250))
    assert run.status == 1
    assert run.lines(
        "FATAL", "Failed on dataId=", "'visit': 250", "its own template", "give another --templateId"
    )
    assert not out.exists()


def test_template_that_is_not_there(out):
    run = command(*pair_words(out, template=999))
    assert run.status == 1
    assert run.lines("No data found for templateId={'visit': 999}")
    assert run.lines("Failed on dataId=", "There is no template: --templateId visit=999")
    assert not out.exists()


def test_of_several_templates_one_that_is_there_is_enough(out):
    run = command(*pair_words(out, template="999^250"))
    assert run.status == 0
    assert run.lines("No data found for templateId={'visit': 999}")
    assert fetch(out, "differenceExp", 230).templates[0].tract == 250


def test_no_template_given_and_none_to_be_chosen(out):
    run = command("--id", "visit=230", "--output", out, "-c", "selectTemplate.name=explicit")
    assert run.status == 2
    assert "no template specified; give one with --templateId" in run.stderr
    assert not out.exists()


def test_template_in_another_band(out):
    run = command(*pair_words(out, 232))
    assert run.status == 0
    assert run.lines("WARN", "science exposure is in band r, the template in band i")
    run = command(*pair_words(out.with_name("strict"), 232), "-c", "requireSameBand=True")
    assert run.status == 1
    assert run.lines("FATAL", "choose a template in band r, or set requireSameBand=False")
    assert visits_done(out.with_name("strict")) == []


def test_template_elsewhere_on_the_sky(out):
    run = command(*pair_words(out, template=240))
    assert run.status == 1
    assert run.lines("Nothing to do for dataId", "'visit': 230", "does not overlap the science exposure")
    assert visits_done(out) == []


# Configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-c", "doNonsense=True"], "no config field: doNonsense"),
        (["-c", "subtract.nonsense=1"], "no config field: subtract.nonsense"),
        (["-c", "doMerge=maybe"], "cannot set config.doMerge"),
        (["-c", "doPreConvolve=True"], "not built yet; set it to False"),
    ],
)
def test_wrong_configuration(out, words, message):
    run = command(*pair_words(out), *words)
    assert run.status == 2
    assert f"imageDifference.py: error: {message}" in run.stderr or message in run.stderr
    assert "Traceback" not in run.stderr
    assert not out.exists()


def test_overrides_follow_the_defaults_of_the_survey_and_one_another(tmp_path):
    later = tmp_path / "later.py"
    later.write_text("config.growFootprint = 7\n")
    words = ["--show", "config=growFootprint", "config=doWriteMatchedExp"]
    run = command("-c", "growFootprint=5", "-C", later, *words)
    # True only with the overrides of Twinkles; the plain default is False.
    assert "config.doWriteMatchedExp=True" in run.stdout
    assert "config.growFootprint=7" in run.stdout
    assert "config.growFootprint=9" in command("-C", later, "-c", "growFootprint=9", *words).stdout


def test_arguments_from_a_file(tmp_path, out):
    words = tmp_path / "words"
    words.write_text(f"--id visit=230  # the supernova\n--templateId visit=250\n--output '{out}'\n")
    assert command(f"@{words}").status == 0
    assert visits_done(out) == [230]


# --show --------------------------------------------------------------------------------------


def test_show_config_is_an_override_file(tmp_path):
    run = command("--show", "config")
    assert run.status == 0
    path = tmp_path / "all.py"
    path.write_text(run.stdout)
    assert command("-C", path, "--show", "config", config=False).stdout == run.stdout


@pytest.mark.parametrize(
    ("pattern", "fits", "not_fits"),
    [
        ("*writematched*", ["doWriteMatchedExp"], ["doWriteWarpedExp"]),
        ("config.doMerge", ["doMerge"], ["doMeasurement"]),
        ("*Visits", ["subtract.failVisits", "subtract.bugVisits"], ["doMerge"]),
        ("failVisits", ["subtract.failVisits"], ["subtract.bugVisits"]),
        ("*writeMATCHED*", [], ["doWriteMatchedExp"]),
        ("dowritematchedexp:NOIGNORECASE", [], ["doWriteMatchedExp"]),
        ("doWriteMatchedExp:NOIGNORECASE", ["doWriteMatchedExp"], []),
    ],
)
def test_show_config_with_a_pattern(pattern, fits, not_fits):
    run = command("--show", f"config={pattern}")
    assert run.status == 0
    assert all(f"config.{name}=" in run.stdout for name in fits)
    assert not any(f"config.{name}=" in run.stdout for name in not_fits)
    assert fits or run.lines("No field of the configuration fits the pattern")


def test_show_config_of_a_choice():
    run = command("--show", "config=subtract.kernel.spatialkernelorder", config=False)
    assert "config.subtract.kernel['AL'].spatialKernelOrder=" in run.stdout


def test_show_history_names_the_places():
    run = command("-c", "subtract.sleepSeconds=3", "--show", "history=subtract.sleepSeconds")
    assert run.status == 0
    assert "override_files.py" in run.stdout and "60.0" in run.stdout and "3" in run.stdout
    run = command("--show", "history=doNonsense")
    assert run.status == 1
    assert "no config field: doNonsense" in run.stderr


def test_show_tasks():
    lines = command("--show", "tasks").stdout.splitlines()
    assert lines[0] == "Subtasks:"
    assert "subtract: stub_stages.StubSubtractTask" in lines
    assert "getTemplate.warp: lsst.twinkles.diffim.tasks.warp.WarpTask" in lines
    assert [line.split(":")[0] for line in lines[1:]] == sorted(line.split(":")[0] for line in lines[1:])


def test_show_data_quits_unless_told_to_run(out):
    run = command(*pair_words(out, "230^999"), "--show", "data")
    assert run.status == 0
    place = "dataRef.dataId = {'instrument': 'TwinklesCam', 'detector': 94, 'visit': %d, 'band': 'i'}"
    assert run.stdout.splitlines() == [f"id {place % 230}", f"templateId {place % 250}"]
    assert not out.exists()
    run = command(*pair_words(out), "--show", "data", "run")
    assert "id dataRef.dataId" in run.stdout and visits_done(out) == [230]


def test_show_data_needs_neither_output_nor_template():
    run = command("--id", "visit=231^232", "--show", "data", "-c", "selectTemplate.name=explicit")
    assert run.status == 0
    assert run.stdout.count("id dataRef.dataId") == 2


# Failures ------------------------------------------------------------------------------------


def test_the_exit_status_counts_failures_and_the_others_go_on(out):
    run = command(*pair_words(out, "230..232"), "-c", "subtract.failVisits=[230]", "subtract.bugVisits=[232]")
    assert run.status == 2
    assert visits_done(out) == [231]
    (line,) = run.lines("FATAL: Failed on dataId=", "'visit': 230")
    assert "Too few stars to determine the matching kernel: 2 usable, 5 required" in line
    # A bug is shown with its traceback, a failed algorithm is not.
    assert run.stderr.count("Traceback") == 1
    assert run.lines("FATAL: Failed on dataId=", "'visit': 232", "ZeroDivisionError: a bug")
    assert run.lines("Of 3 data ids: 1 done, 2 failed")


def test_no_exit_and_the_traceback_for_those_who_debug(out):
    run = command(*pair_words(out), "-c", "subtract.failVisits=[230]", "-L", "debug", "--noExit")
    assert run.status == 0
    assert run.lines("ERROR: 1 dataRefs failed; not exiting as --noExit was set")
    assert "Traceback" in run.stderr and "InsufficientKernelSourcesError" in run.stderr


def test_doraise_lets_the_exception_through(out):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command(*pair_words(out, "230^231"), "-c", "subtract.bugVisits=[230]", "--doraise")
    assert visits_done(out) == []


def test_status_is_capped(out, monkeypatch):
    monkeypatch.setattr("lsst.twinkles.diffim.cli.image_difference.MAX_STATUS", 2)
    run = command(*pair_words(out, template=999), "--id", "visit=231^232")
    assert len(run.lines("FATAL")) == 3
    assert run.status == 2 and MAX_STATUS == 255


def test_exposure_that_cannot_be_read(out, tmp_path):
    repo = copy_of_repository(tmp_path / "repo")
    (file,) = repo.glob("**/v231-*/*.fits")
    file.write_bytes(file.read_bytes()[:8000])
    run = command(*pair_words(out, "230^231"), repo=repo)
    assert run.status == 1
    assert run.lines(
        "FATAL", "'visit': 231", "Cannot read the science exposure", str(file), "ingest it again"
    )
    file.unlink()
    run = command(*pair_words(out, "231"), repo=repo)
    assert run.status == 1 and run.lines("FATAL", "Cannot read the science exposure")
    assert visits_done(out) == [230]


def test_full_disk(out, monkeypatch):
    write = staging.write_archive

    def refuse(image, path, **kwargs):
        if "DifferenceImage" in type(image).__name__ and image.obs_info.visit_id == 231:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return write(image, path, **kwargs)

    monkeypatch.setattr(staging, "write_archive", refuse)
    run = command(*pair_words(out, "230^231"))
    assert run.status == 1
    assert run.lines("FATAL", "'visit': 231", "No space left on device", "free space")
    assert "Traceback" not in run.stderr
    assert visits_done(out) == [230]
    assert not list(out.glob("**/v231*")) and not list(out.glob(".staging/*"))


def test_output_that_cannot_be_made(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    run = command(*pair_words(file / "out"))
    assert run.status == 1
    assert run.lines("FATAL", "Failed in task initialization", str(file / "out"))
    with pytest.raises(RepositoryError, match="Cannot make directory"):
        command(*pair_words(file / "out"), "--doraise")


def test_output_without_permission_to_write():
    with public_directory() as root:
        (root / "stubs.py").write_text(Path(config_file()).read_text())
        repo = copy_of_repository(root / "repo")
        make_read_only(repo)
        (root / "locked").mkdir()
        try:
            with without_privileges():
                run = command(
                    *pair_words(root / "locked" / "out"), "-C", root / "stubs.py", repo=repo, config=False
                )
        finally:
            make_writeable(repo)
        assert run.status == 1
        assert run.lines("FATAL", "Failed in task initialization", "Permission denied", "locked/out")


# Once more -----------------------------------------------------------------------------------


def test_a_second_run_keeps_what_is_done_and_does_the_rest(out):
    command(*pair_words(out, "230^231"))
    times = {path: path.stat().st_mtime_ns for path in out.glob("deepDiff/v*/**/*.fits")}
    run = command(*pair_words(out, "230..232"))
    assert run.status == 0
    assert len(run.lines("was done by an earlier run with the same inputs; kept")) == 2
    assert run.lines("Of 3 data ids: 1 done, 2 skipped")
    assert len(times) == 4 and all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert visits_done(out) == [230, 231, 232]


def test_results_that_are_not_all_there_are_made_again(out):
    command(*pair_words(out))
    with Butler.from_config(str(out), writeable=True) as butler:
        ref = butler.find_dataset(
            "deepDiff_diaSrc", collections="deepDiff", instrument="TwinklesCam", visit=230, detector=94
        )
        butler.pruneDatasets([ref], disassociate=True, unstore=True, purge=True)
    assert command(*pair_words(out)).lines("Of 1 data ids: 1 done")
    assert len(fetch(out, "diaSrc", 230)) == 1


def test_another_template_replaces_the_results(out):
    command(*pair_words(out))
    run = command(*pair_words(out, template=251))
    assert run.status == 0 and run.lines("Of 1 data ids: 1 done")
    assert fetch(out, "differenceExp", 230).templates[0].tract == 251
    np.testing.assert_array_equal(fetch(out, "differenceExp", 230).image.array, difference_of(230, 251))
    assert visits_done(out) == [230]


def test_another_configuration_is_refused_or_replaces_the_old_one(out):
    command(*pair_words(out))
    run = command(*pair_words(out), "-c", "growFootprint=4")
    assert run.status == 1
    assert run.lines("FATAL: Failed in task initialization: Config does not match existing task config",
                     "growFootprint", "--clobber-config")  # fmt: skip
    assert fetch(out, "config").growFootprint == 2
    run = command(*pair_words(out), "-c", "growFootprint=4", "--clobber-config")
    assert run.status == 0 and run.lines("Of 1 data ids: 1 done")
    assert fetch(out, "config").growFootprint == 4
    assert "growFootprint=2" in (out / "deepDiff" / "config.py~1").read_text()

    run = command(*pair_words(out), "-c", "growFootprint=6", "--no-backup-config")
    assert run.status == 0
    assert fetch(out, "config").growFootprint == 6
    assert not (out / "deepDiff" / "config.py~2").exists()


def test_other_versions_are_refused_or_replace_the_old_ones(out, monkeypatch):
    command(*pair_words(out))
    assert ("deepDiff_packages", None) not in stored(out)
    command(*pair_words(out), versions=True)
    monkeypatch.setattr("lsst.twinkles.diffim.pipeline.guards._find_packages", lambda: _packages("9.9"))
    run = command(*pair_words(out), versions=True)
    assert run.status == 1
    assert run.lines("FATAL: Failed in task initialization: Version mismatch", "numpy", "9.9 now",
                     "consider using --clobber-versions or --no-versions")  # fmt: skip
    assert command(*pair_words(out), "--no-versions").status == 0
    assert fetch(out, "packages")["numpy"] == np.__version__
    run = command(*pair_words(out), "--clobber-versions", versions=True)
    assert run.status == 0 and run.lines("Of 1 data ids: 1 done")
    assert fetch(out, "packages")["numpy"] == "9.9"


def _packages(version):
    from lsst.utils.packages import Packages

    return Packages({"numpy": version})


# Other options -------------------------------------------------------------------------------


def test_profile_and_a_calibration_directory(out, tmp_path):
    run = command(*pair_words(out), "--profile", tmp_path / "profile", "--calib", "/nowhere")
    assert run.status == 0
    stats = pstats.Stats(str(tmp_path / "profile"))
    assert any("stub_stages.py" in function[0] for function in stats.stats)
    assert run.lines("WARN", "--calib /nowhere is ignored")


def test_debug_imports_the_module(out, tmp_path, monkeypatch):
    with contextlib.suppress(KeyError):
        monkeypatch.delitem(sys.modules, "debug")
    assert command("--show", "tasks", "--debug").lines("No 'debug' module found")
    (tmp_path / "debug.py").write_text("print('the debug module')\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = command("--show", "tasks", "--debug")
    assert run.stdout.startswith("the debug module\n") and not run.lines("No 'debug' module")
    sys.modules.pop("debug", None)


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal(out):
    terminal = _Terminal()
    with contextlib.redirect_stderr(terminal):
        status = main(
            [str(repository()), "-C", config_file(), "--no-versions", *map(str, pair_words(out, "230^231"))]
        )
    assert status == 0
    lines = terminal.getvalue().replace("\r", "\n").splitlines()
    assert [line for line in lines if re.search(r"50%\|.*1/2", line)]
    # Messages stand on lines of their own, not behind the bar.
    assert len([line for line in lines if line.startswith("lsst.imageDifference INFO: [")]) == 2
    assert "|" not in command(*pair_words(out, 232)).stderr


@pytest.mark.slow
def test_output_that_nobody_reads_to_the_end():
    words = f"{sys.executable} -m lsst.twinkles.diffim.cli.image_difference {repository()} --show config"
    shell = f"set -o pipefail; {words} | head -n 1"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert result.stdout.startswith("import lsst.twinkles") and result.stderr == ""
    assert result.returncode in (0, 141)


def test_levels_of_messages(out):
    verbose = command(*pair_words(out, 231), "-L", "debug")
    assert verbose.lines("lsst.imageDifference.subtract DEBUG: At work on visit 231.")
    one = command(*pair_words(out, 232), "-L", "warn", "imageDifference.subtract=debug")
    assert one.lines("At work on visit") and not one.lines("INFO")


def test_long_log_lines(out):
    run = command(*pair_words(out, 232), "--longlog")
    (line,) = run.lines("in band r, the template in band i")
    assert re.match(
        r"WARN  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} lsst\.imageDifference \(\{.*'visit': 232.*\}\)"
        r"\(\w+\.py:\d+\)- ",
        line,
    )
