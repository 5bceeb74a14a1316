"""Where imageDifference.py reads and writes: --output, --rerun, --clobber-output, and what it refuses."""

import json
from pathlib import Path

import pytest
from command_runs import command, copy_of_repository, fetch, pair_words, repository, visits_done
from repositories import make_repository, snapshot

from lsst.twinkles.diffim.cli.gen2_parser import Gen2ArgumentParser
from lsst.twinkles.diffim.cli.places import CommandError, Places, find_places, remove_output

PAIR = ["--id", "visit=230", "--templateId", "visit=250"]


@pytest.fixture(autouse=True)
def no_roots(monkeypatch):
    for variable in ("PIPE_INPUT_ROOT", "PIPE_CALIB_ROOT", "PIPE_OUTPUT_ROOT"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def repo(tmp_path):
    """A directory that stands for a repository where none is opened."""
    path = tmp_path / "repo"
    path.mkdir()
    return path


def find(*words):
    return find_places(Gen2ArgumentParser("imageDifference.py", "").parse([str(word) for word in words]))


def make_output(path, parent):
    """Make the beginnings of an output repository."""
    path.mkdir(parents=True)
    (path / "_parent").write_text(json.dumps({"root": str(parent), "collections": []}))
    return path


@pytest.mark.parametrize("name", ["out", "rerun/a", "TwinklesCam/x/y"])
def test_an_output_in_the_input_is_refused(repo, tmp_path, monkeypatch, name):
    message = r"would be in the input repository.*--output elsewhere, or give --rerun NAME"
    with pytest.raises(CommandError, match=message):
        find(repo, "--output", repo / name)
    (tmp_path / "link").symlink_to(repo)
    with pytest.raises(CommandError, match=message):
        find(repo, "--output", tmp_path / "link" / name)
    monkeypatch.chdir(repo)
    with pytest.raises(CommandError, match=message):
        find(".", "--output", name)
    assert not list(repo.iterdir())
    # Beside it, with a name that begins alike, is elsewhere.
    assert find(repo, "--output", f"{repo}-{'out'}").output == Path(f"{repo}-out")


def test_what_a_rerun_has_made_is_an_output(repo):
    """By its directory, too: it is there already."""
    out = make_output(repo / "rerun" / "a", repo)
    assert find(repo, "--output", out).output == out


# --rerun -------------------------------------------------------------------------------------


def test_rerun_is_a_directory_of_the_input(repo):
    assert find(repo, "--rerun", "night1") == Places(str(repo), repo / "rerun" / "night1")


def test_rerun_comes_before_the_root_for_outputs(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("PIPE_OUTPUT_ROOT", str(tmp_path / "outputs"))
    assert find(repo, "--rerun", "night1").output == repo / "rerun" / "night1"
    assert find(repo).output == tmp_path / "outputs"


def test_rerun_reads_another_rerun(repo, tmp_path):
    (repo / "rerun" / "a").mkdir(parents=True)
    assert find(repo, "--rerun", "a:b") == Places(str(repo / "rerun" / "a"), repo / "rerun" / "b")
    # Results hold no exposures: what they were made from is read.
    make_output(repo / "rerun" / "c", tmp_path / "elsewhere")
    assert find(repo, "--rerun", "c:d").input == str(tmp_path / "elsewhere")


def test_an_existing_rerun_knows_its_input(repo, tmp_path):
    make_output(repo / "rerun" / "a", tmp_path / "elsewhere")
    assert find(repo, "--rerun", "a").input == str(tmp_path / "elsewhere")


@pytest.mark.parametrize("name", ["a:", ":a", ":", "a:a", "..", "a:../.."])
def test_reruns_that_make_no_sense(repo, name):
    (repo / "rerun" / "a").mkdir(parents=True)
    with pytest.raises(CommandError, match="must be a name, or two different names IN:OUT"):
        find(repo, "--rerun", name)


def test_rerun_without_input(repo):
    with pytest.raises(CommandError, match=r"there is no .*rerun/a to read"):
        find(repo, "--rerun", "a:b")
    with pytest.raises(CommandError, match="needs a repository in a local directory"):
        find("s3://bucket/repo", "--rerun", "a")


def test_damaged_note_of_the_input(repo):
    out = make_output(repo / "rerun" / "a", "x")
    (out / "_parent").write_text("{")
    with pytest.raises(CommandError, match=r"_parent cannot be read .* remove"):
        find(repo, "--rerun", "a")


def test_a_run_and_a_rerun_of_it(tmp_path):
    repo = copy_of_repository(tmp_path / "repo")
    assert command(*PAIR, "--rerun", "first", repo=repo).status == 0
    first = repo / "rerun" / "first"
    assert visits_done(first) == [230]
    before = snapshot(first)
    run = command(*PAIR, "--rerun", "first:second", "-c", "growFootprint=3", repo=repo)
    assert run.status == 0, run.stderr
    assert fetch(repo / "rerun" / "second", "config").growFootprint == 3
    assert json.loads((repo / "rerun" / "second" / "_parent").read_text())["root"] == str(repo)
    assert snapshot(first) == before


# The input -----------------------------------------------------------------------------------


def test_spellings_of_the_input(tmp_path, monkeypatch):
    repo = repository()
    words = ["--id", "visit=230", "--show", "data"]
    for spelling in (repo / "butler.yaml", f"file://{repo}", f"{repo}/"):
        assert command(*words, repo=spelling).stdout.count("id dataRef.dataId") == 1
    monkeypatch.setenv("PIPE_INPUT_ROOT", str(repo.parent))
    assert command(*words, repo=repo.name).stdout.count("id dataRef.dataId") == 1


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("empty", "is not a Butler repository (no butler.yaml in it)"),
        ("nowhere", "not found: it must be the directory of a Butler repository"),
        ("nowhere/butler.yaml", "not found"),
        ("wrong/butler.yaml", "wrong"),
        ("mem://bucket/repo", "Cannot read repository mem://bucket/repo"),
    ],
)
def test_what_is_no_repository(tmp_path, spelling, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "butler.yaml").write_text("registry: {db: 'sqlite:////nowhere/x.sqlite3'}\n")
    path = spelling if "://" in spelling else tmp_path / spelling
    run = command(*pair_words(tmp_path / "out"), repo=path)
    assert run.status == 2
    assert "imageDifference.py: error: " in run.stderr and message in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


# The output ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--clobber-output"]])
def test_the_input_as_output(tmp_path, words):
    repo = copy_of_repository(tmp_path / "repo")
    link = tmp_path / "link"
    link.symlink_to(repo)
    before = snapshot(repo)
    for out in (repo, link, f"{repo}/../repo"):
        run = command(*pair_words(out), *words, repo=repo)
        assert run.status == 2
        assert "the output is the input repository" in run.stderr
    assert snapshot(repo) == before


def test_output_of_another_input(tmp_path):
    out = tmp_path / "out"
    assert command(*pair_words(out)).status == 0
    with make_repository(tmp_path / "other", visits=((230, "i"), (250, "i"))):
        pass
    run = command(*pair_words(out), repo=tmp_path / "other")
    assert run.status == 1
    assert run.lines(
        "FATAL: Failed in task initialization", "belongs to the input repository", str(repository())
    )


def test_a_repository_that_is_no_output_is_left_alone(tmp_path):
    with make_repository(tmp_path / "other", visits=((1, "i"),)):
        pass
    before = snapshot(tmp_path / "other")
    run = command(*pair_words(tmp_path / "other"))
    assert run.status == 2
    assert "is a repository that this command did not make; choose another --output" in run.stderr
    assert snapshot(tmp_path / "other") == before


# --clobber-output ----------------------------------------------------------------------------


def test_clobber_output_starts_afresh(tmp_path):
    out = tmp_path / "out"
    command(*pair_words(out, "230^231"), "-c", "growFootprint=5")
    (out / "note").write_text("")
    run = command(*pair_words(out), "--clobber-output")
    assert run.status == 0 and run.lines("Of 1 data ids: 1 done")
    assert visits_done(out) == [230] and fetch(out, "config").growFootprint == 2
    assert not (out / "note").exists()


def test_clobber_output_with_nothing_there_but_the_remains_of_a_killed_run(tmp_path):
    assert command(*pair_words(tmp_path / "out"), "--clobber-output").status == 0
    (tmp_path / "out2" / "creating-0123").mkdir(parents=True)
    assert command(*pair_words(tmp_path / "out2")).status == 0
    assert sorted(path.name for path in (tmp_path / "out2").iterdir()) == [
        "_parent",
        "butler.yaml",
        "deepDiff",
        "gen3.sqlite3",
    ]


def test_wrong_data_ids_do_not_cost_the_output(tmp_path):
    out = tmp_path / "out"
    command(*pair_words(out))
    assert command(*pair_words(out, 999), "--clobber-output").status == 1
    assert command(*pair_words(out, "x"), "--clobber-output").status == 2
    assert visits_done(out) == [230]


def test_what_is_not_clobbered(tmp_path):
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / "thesis.tex").write_text("")
    with pytest.raises(CommandError, match="was not made by this command"):
        remove_output(Places(str(tmp_path / "repo"), precious))
    out = make_output(tmp_path / "out", tmp_path / "out" / "repo")
    (out / "repo").mkdir()
    with pytest.raises(CommandError, match="holds the input repository"):
        remove_output(Places(str(out / "repo"), out))
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(CommandError, match="is not a directory"):
        remove_output(Places(str(tmp_path / "repo"), tmp_path / "link"))
    assert (precious / "thesis.tex").exists() and (out / "repo").exists()


def test_remains_of_a_killed_run_are_clobbered(tmp_path):
    out = tmp_path / "out"
    (out / "creating-0123").mkdir(parents=True)
    remove_output(Places(str(tmp_path / "repo"), out))
    assert not out.exists()
    remove_output(Places(str(tmp_path / "repo"), Path(out)))
