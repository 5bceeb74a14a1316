"""Results in a repository of their own: together or not at all, the input untouched."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from lsst.daf.butler import Butler
from lsst.images import DifferenceImage
from lsst.pipe.base import TaskMetadata
from repositories import (
    file_size_limit,
    files_below,
    leaky_butler,
    make_image,
    make_read_only,
    make_repository,
    public_directory,
    snapshot,
    without_privileges,
)

from lsst.twinkles.diffim.pipeline import staging
from lsst.twinkles.diffim.pipeline.data_ids import find_exposures
from lsst.twinkles.diffim.pipeline.output_repository import (
    open_output_repository,
    put_outputs,
    read_parent,
)
from lsst.twinkles.diffim.pipeline.repository import (
    RepositoryError,
    create_repository,
    open_input_repository,
    repository_root,
)
from lsst.twinkles.diffim.pipeline.staging import OutputWriteError

DATA_ID = {"instrument": "TwinklesCam", "visit": 1, "detector": 94}
FILES = {
    "deepDiff/v1-fr/R22/diffexp-S11.fits",
    "deepDiff/v1-fr/R22/matchexp-S11.fits",
    "deepDiff/v1-fr/R22/diaSrc-S11.parq",
    "deepDiff/v1-fr/R22/metadata-S11.json",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """An input repository, and its root."""
    root = tmp_path_factory.mktemp("input") / "repo"
    make_repository(root).close()
    before = snapshot(root)
    with open_input_repository(root) as butler:
        yield butler
    assert snapshot(root) == before, "the input repository was written to"


@pytest.fixture
def refs(source):
    return find_exposures(source, [{}]).refs


@pytest.fixture(scope="module")
def blank(source, tmp_path_factory):
    """An output repository without results, to be copied."""
    root = tmp_path_factory.mktemp("blank") / "out"
    open_output_repository(root, source, refs=find_exposures(source, [{}]).refs).butler.close()
    return root


@pytest.fixture
def output(source, blank, tmp_path):
    shutil.copytree(blank, tmp_path / "out")
    with open_output_repository(tmp_path / "out", source) as repository:
        yield repository


def make_products(seed=1, **kwargs):
    """Return results of a data id, of which the image tells the seed."""
    science = make_image(seed, visit=1, **kwargs)
    difference = DifferenceImage(
        science.image,
        mask=science.mask,
        variance=science.variance,
        obs_info=science.obs_info,
        psf=science.psf,
        detector=science.detector,
        band="r",
    )
    table = Table(
        {"diaSourceId": np.array([7, 8]), "psfFlux": [1.5, -2.5] * u.nJy, "ra": [53.0, 53.1] * u.deg}
    )
    metadata = TaskMetadata()
    metadata["seed"] = seed
    return {"differenceExp": difference, "matchedExp": science, "diaSrc": table, "metadata": metadata}


def read_seed(repository):
    """Return the seed of the stored results; all of them must agree."""
    seed = int(repository.butler.get(repository.find("metadata", DATA_ID))["seed"])
    image = repository.butler.get(repository.find("differenceExp", DATA_ID)).image.array
    np.testing.assert_array_equal(image, make_products(seed)["differenceExp"].image.array)
    return seed


# What it holds


def test_results_come_back_and_are_named_as_gen2_named_them(output):
    refs = put_outputs(output, DATA_ID, make_products(3))
    assert read_seed(output) == 3
    assert {ref.datasetType.name for ref in refs.values()} == {
        "deepDiff_differenceExp",
        "deepDiff_matchedExp",
        "deepDiff_diaSrc",
        "deepDiff_metadata",
    }
    assert files_below(output.root) == FILES


def test_plain_programs_open_the_files(output):
    products = make_products(3)
    put_outputs(output, DATA_ID, products)
    with fits.open(output.root / "deepDiff/v1-fr/R22/diffexp-S11.fits") as hdus:
        np.testing.assert_array_equal(hdus["IMAGE"].data, products["differenceExp"].image.array)
        sky = WCS(hdus["IMAGE"].header).pixel_to_world(10.0, 20.0)
    expected = products["differenceExp"].sky_projection.pixel_to_sky(x=10.0, y=20.0)
    assert sky.separation(expected).arcsec < 1e-3
    path = output.root / "deepDiff/v1-fr/R22/diaSrc-S11.parq"
    assert Table.read(path)["psfFlux"].unit == u.nJy
    assert pd.read_parquet(path)["psfFlux"].tolist() == [1.5, -2.5]


def test_the_butler_command_queries_both_repositories(source, output, tmp_path):
    put_outputs(output, DATA_ID, make_products())
    butler = Path(sys.executable).with_name("butler")
    where = "instrument = 'TwinklesCam' AND visit = 1 AND band = 'r'"
    for root, name in (
        (repository_root(source), "calexp"),
        (output.root, "deepDiff_diaSrc"),
    ):
        command = [butler, "query-datasets", root, name, "--collections", "*", "--where", where]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert name in done.stdout


def test_the_input_is_noted_and_inputs_are_in_the_headers(source, output, refs):
    put_outputs(output, DATA_ID, make_products(), inputs=refs[:2])
    assert read_parent(output.root) == str(repository_root(source))
    header = fits.getheader(output.root / "deepDiff/v1-fr/R22/diffexp-S11.fits")
    assert header["LSST BUTLER INPUT 0 ID"] == str(refs[0].id)
    assert header["LSST BUTLER INPUT 1 RUN"] == "TwinklesCam/calexp"
    assert header["LSST BUTLER N_INPUTS"] == 2


def test_coadd_name_is_the_prefix(source, refs, tmp_path):
    with open_output_repository(tmp_path / "out", source, refs=refs, coadd_name="goodSeeing") as repository:
        put_outputs(repository, DATA_ID, {"metadata": make_products()["metadata"]})
        assert repository.find("metadata", DATA_ID).datasetType.name == "goodSeeingDiff_metadata"
    assert files_below(tmp_path / "out") == {"goodSeeingDiff/v1-fr/R22/metadata-S11.json"}


def test_products_that_are_none_are_left_out(output):
    assert put_outputs(output, DATA_ID, {"diaSrc": None}) == {}
    assert output.find("diaSrc", DATA_ID) is None


def test_a_second_run_replaces_and_keeps_a_copy_if_asked(output):
    put_outputs(output, DATA_ID, make_products(1))
    old = (output.root / "deepDiff/v1-fr/R22/diffexp-S11.fits").read_bytes()
    put_outputs(output, DATA_ID, make_products(2), backup=True)
    assert read_seed(output) == 2
    assert (output.root / "deepDiff/v1-fr/R22/diffexp-S11.fits~1").read_bytes() == old
    put_outputs(output, DATA_ID, make_products(3))
    assert read_seed(output) == 3


def test_an_opened_repository_is_opened_again(source, refs, tmp_path):
    for seed in (1, 2):
        with open_output_repository(tmp_path / "out", source, refs=refs) as repository:
            assert (repository.find("metadata", DATA_ID) is None) == (seed == 1)
            put_outputs(repository, DATA_ID, make_products(seed))
            assert read_seed(repository) == seed


# What it refuses


@pytest.mark.parametrize("spelling", ["repo", "./other/../repo", "link"])
def test_the_input_is_refused_as_output_however_it_is_spelt(tmp_path, monkeypatch, spelling):
    create_repository(tmp_path / "repo").close()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "repo")
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    refusal = pytest.raises(RepositoryError, match="is the input repository; choose another --output")
    with open_input_repository("repo") as butler, refusal:
        open_output_repository(spelling, butler)
    assert snapshot(tmp_path) == before


def test_output_of_another_input_is_refused(output, tmp_path):
    create_repository(tmp_path / "another").close()
    refusal = pytest.raises(RepositoryError, match=r"belongs to the input repository .* --clobber-output")
    with open_input_repository(tmp_path / "another") as butler, refusal:
        open_output_repository(output.root, butler)


def test_a_damaged_note_on_the_input_is_told(source, output):
    (output.root / "_parent").write_text("{")
    with pytest.raises(RepositoryError, match=r"_parent is damaged .* remove it"):
        open_output_repository(output.root, source)


def test_a_file_in_the_way_is_refused(source, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RepositoryError, match=f"Cannot make directory {tmp_path}/out: File exists"):
        open_output_repository(tmp_path / "out", source)
    assert (tmp_path / "out").read_text() == "mine"


def test_an_unwritable_directory_is_refused(source, tmp_path):
    with public_directory() as root:
        (root / "out").mkdir()
        make_read_only(root)
        with without_privileges(), leaky_butler():
            for out in (root / "out", root / "new"):
                with pytest.raises(RepositoryError, match=f"Cannot .* {out}"):
                    open_output_repository(out, source)
        assert [path.name for path in root.rglob("*")] == ["out"]


def test_an_output_that_became_read_only_is_refused():
    with public_directory() as root:
        make_repository(root / "repo").close()
        with open_input_repository(root / "repo") as butler:
            open_output_repository(root / "out", butler).butler.close()
            make_read_only(root)
            with (
                without_privileges(),
                leaky_butler(),
                pytest.raises(RepositoryError, match="Cannot write to output repository"),
            ):
                open_output_repository(root / "out", butler)


def test_unknown_products_and_visits_are_refused(output):
    with pytest.raises(ValueError, match=r"products has unknown names \['calexp'\]; known are"):
        put_outputs(output, DATA_ID, {"calexp": None})
    with pytest.raises(ValueError, match=r"is not known to output repository .* copy its dimension records"):
        put_outputs(output, {**DATA_ID, "visit": 99}, make_products())
    assert files_below(output.root) == set()


# Disks and interrupts


def fail_at(monkeypatch, name, number, error):
    """Let a function of the staging module fail at a certain call, after it did its work."""
    real, calls = getattr(staging, name), []

    def failing(*args, **kwargs):
        result = real(*args, **kwargs)
        calls.append(args)
        if len(calls) == number:
            raise error
        return result

    monkeypatch.setattr(staging, name, failing)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", [1, 3])
def test_when_one_cannot_be_written_none_is_kept(output, monkeypatch, error, number):
    fail_at(monkeypatch, "write_dataset", number, error)
    with pytest.raises(OutputWriteError if isinstance(error, OSError) else KeyboardInterrupt):
        put_outputs(output, DATA_ID, make_products())
    assert files_below(output.root) == set()
    assert output.find("differenceExp", DATA_ID) is None


@pytest.mark.parametrize("number", [1, 3])
def test_results_of_an_earlier_run_survive_a_failed_one(output, monkeypatch, number):
    put_outputs(output, DATA_ID, make_products(1))
    fail_at(monkeypatch, "write_dataset", number, OSError(28, "No space left on device"))
    with pytest.raises(OutputWriteError, match="nothing of it was kept; free space"):
        put_outputs(output, DATA_ID, make_products(2))
    assert read_seed(output) == 1
    assert files_below(output.root) == FILES


def test_a_disk_that_is_really_full(output):
    refusal = pytest.raises(OutputWriteError, match=r"Cannot write deepDiff_differenceExp .* free space")
    with file_size_limit((output.root / "gen3.sqlite3").stat().st_size + 100_000), refusal:
        put_outputs(output, DATA_ID, make_products(size=900))
    assert files_below(output.root) == set()
    put_outputs(output, DATA_ID, make_products(4))
    assert read_seed(output) == 4


_KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_output_repository import *

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

source = open_input_repository(sys.argv[1])
repository = open_output_repository(sys.argv[2], source)
{where} = die
put_outputs(repository, DATA_ID, make_products(2))
"""


@pytest.mark.parametrize(
    ("where", "seed_after"),
    [
        pytest.param("staging.StagedDatasets.commit", 1, marks=pytest.mark.slow),
        ("type(repository.butler).ingest", None),
    ],
)
def test_after_a_kill_results_are_whole_or_absent(source, output, refs, monkeypatch, where, seed_after):
    put_outputs(output, DATA_ID, make_products(1))
    code = _KILLED.format(tests=str(Path(__file__).parent), where=where)
    root = repository_root(source)
    done = subprocess.run([sys.executable, "-c", code, str(root), str(output.root)], capture_output=True)
    assert done.returncode == -9, done.stderr
    monkeypatch.setattr(staging, "_LOCK_GRACE_S", 0.0)
    with open_output_repository(output.root, source, refs=refs) as repository:
        if seed_after is None:
            assert [repository.find(name, DATA_ID) for name in make_products()] == [None] * 4
        else:
            assert read_seed(repository) == seed_after
        put_outputs(repository, DATA_ID, make_products(5))
        assert read_seed(repository) == 5
        assert files_below(repository.root) == FILES


def test_several_at_the_same_time_write_into_one_output(source, refs, tmp_path):
    def write(visit):
        with open_output_repository(tmp_path / "out", source, refs=refs) as repository:
            put_outputs(repository, {**DATA_ID, "visit": visit}, make_products(visit))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, (1, 2, 3)))
    with Butler.from_config(tmp_path / "out", collections="deepDiff") as butler:
        for visit in (1, 2, 3):
            metadata = butler.get("deepDiff_metadata", {**DATA_ID, "visit": visit})
            assert int(metadata["seed"]) == visit


def test_images_that_share_pixels_are_not_written_at_once(output):
    # astropy swaps the bytes of what it writes in place: another thread would write them swapped.
    products = make_products(3)
    difference, matched = products["differenceExp"], products["matchedExp"]
    assert difference.image.array is matched.image.array
    assert staging._share_pixels([(difference, None, ""), (matched, None, "")])
    assert not staging._share_pixels([(difference, None, ""), (matched.copy(), None, "")])
    put_outputs(output, DATA_ID, products)
    for name in ("differenceExp", "matchedExp"):
        stored = output.butler.get(output.find(name, DATA_ID))
        np.testing.assert_array_equal(stored.image.array, products[name].image.array)
