"""imageDifference.py without a template: the choice, what is stored, shown and read for it."""

import numpy as np
import pytest
from command_runs import command, copy_of_repository, dataset_id, fetch, pair_words, repository, stored
from repositories import make_image, snapshot

from lsst.twinkles.diffim.cli.template_choice import FIGURES_FILE
from lsst.twinkles.diffim.pipeline.data_ids import find_exposures
from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import open_input_repository, open_writeable_repository
from lsst.twinkles.diffim.pipeline.visit_figures import FiguresReader, load_figures
from lsst.twinkles.diffim.tasks.exposure_figures import measure_figures


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def quiet_repo(tmp_path):
    """Return a repository of which visit 260 (i) has the least noise."""
    root = copy_of_repository(tmp_path / "repo")
    image = make_image(260, visit=260, band="i")
    image.variance.array[...] *= 0.25
    with open_writeable_repository(root) as butler, ExposureIngester(butler) as ingester:
        ingester.add(image)
    return root


def test_the_deepest_template_is_chosen_and_the_scores_stored(quiet_repo, out):
    before = snapshot(quiet_repo)
    run = command("--id", "visit=230^260", "--output", out, repo=quiet_repo)
    assert run.status == 0, run.stderr
    assert fetch(out, "differenceExp", 230).templates[0].tract == 260
    assert fetch(out, "differenceExp", 260).templates[0].tract == 230  # never itself; the first of equals
    scores = fetch(out, "templateScores", 230)
    assert sorted(scores["visit"]) == [230, 231, 240, 250, 251, 260]  # those of the band
    row = {int(r["visit"]): r for r in scores}
    assert row[260]["rank"] == 0 and row[260]["chosen"]
    assert row[230]["reason"] == "the science visit itself" and row[240]["reason"] == "covers 0 percent"
    assert snapshot(quiet_repo) == before


def test_show_data_shows_the_scores(quiet_repo, out):
    run = command("--id", "visit=230", "--show", "data", repo=quiet_repo)
    lines = run.stdout.splitlines()
    assert "'visit': 260" in lines[1] and lines[1].startswith("templateId")
    table = lines[lines.index("") + 3 :]
    assert table[0].split()[0] == "260" and table[0].endswith("<- template")
    assert {line.split()[0] for line in table} == {"230", "231", "240", "250", "251", "260"}
    assert any(line.split()[0] == "240" and line.endswith("covers 0 percent") for line in table)


def test_several_template_ids_are_the_candidates(quiet_repo, out):
    run = command(*pair_words(out, 230, "231^251"), repo=quiet_repo)
    assert run.status == 0
    assert list(fetch(out, "templateScores", 230)["visit"]) == [231, 251]
    assert fetch(out, "differenceExp", 230).templates[0].tract == 231


def test_one_template_id_leaves_no_choice(out):
    assert command(*pair_words(out)).status == 0
    assert "deepDiff_templateScores" not in {name for name, visit in stored(out) if visit}


def test_another_method_and_its_settings(out):
    words = ["-c", "selectTemplate.name=explicit", "selectTemplate.visits=[251,250]"]
    assert command("--id", "visit=230", "--output", out, *words).status == 0
    assert fetch(out, "differenceExp", 230).templates[0].tract == 251


def test_no_candidate_may_serve(out):
    run = command("--id", "visit=230", "--output", out, "-c", "selectTemplate.minTimeSeparation=10")
    assert run.status == 1
    assert run.lines("FATAL", "None of 4 visits may be its template", "less than 10 days away (4)")
    run = command("--id", "visit=232", "--output", out)
    assert run.status == 1
    assert run.lines("FATAL", "There is no other visit in band r, detector 94")
    run = command(*pair_words(out, 232, "230^231"))
    assert run.status == 1
    assert run.lines("FATAL", "None of 2 visits", "band i (2)")
    assert not out.exists()


def test_what_was_read_is_kept_and_not_read_again(out, monkeypatch):
    words = ["--id", "visit=230", "--output", out]
    assert command(*words).status == 0
    kept = load_figures(out / FIGURES_FILE)
    assert sorted(f.visit for f in kept.values()) == [230, 231, 240, 250, 251]
    assert str(next(k for k, f in kept.items() if f.visit == 250)) == dataset_id(250)

    def refuse(*_):
        raise AssertionError("read again")

    monkeypatch.setattr("lsst.twinkles.diffim.pipeline.visit_figures.read_figures", refuse)
    run = command(*words)
    assert run.status == 0 and run.lines("was done by an earlier run")
    (out / FIGURES_FILE).write_bytes(b"damaged")
    run = command("--id", "visit=231", "--output", out)
    assert run.lines("Cannot read", FIGURES_FILE) and run.lines("Visit 250 is no candidate", "read again")


def test_figures_from_a_strip_are_those_of_the_exposure():
    with open_input_repository(repository()) as butler:
        (ref,) = find_exposures(butler, [{"visit": 250}]).refs
        quick = FiguresReader(butler)(ref)
        whole = measure_figures(butler.get(ref))
    assert (quick.visit, quick.band, quick.detector) == (250, "i", 94)
    assert quick.fwhm == whole.fwhm and quick.pixel_scale == whole.pixel_scale
    np.testing.assert_array_equal(quick.corners, whole.corners)
    np.testing.assert_array_equal(quick.power, whole.power)


def test_noise_of_a_strip(tmp_path):
    image = make_image(1, visit=1, size=200)
    image.variance.array[:60] = 1e4
    image.variance.array[-60:] = 1e4
    from lsst.twinkles.diffim.pipeline.repository import create_repository

    with create_repository(tmp_path / "r") as butler, ExposureIngester(butler) as ingester:
        ingester.add(image)
    with open_input_repository(tmp_path / "r") as butler:
        (ref,) = find_exposures(butler, [{"visit": 1}]).refs
        assert FiguresReader(butler)(ref).variance == pytest.approx(
            np.median(image.variance.array[68:132]), rel=0.01
        )
