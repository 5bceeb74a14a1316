"""Repositories: made wholly or not at all, read without being written to."""

import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from lsst.daf.butler import Butler
from repositories import (
    leaky_butler,
    make_read_only,
    make_repository,
    public_directory,
    snapshot,
    without_privileges,
)

from lsst.twinkles.diffim.cli import make_repo
from lsst.twinkles.diffim.pipeline import repository
from lsst.twinkles.diffim.pipeline.data_ids import find_exposures
from lsst.twinkles.diffim.pipeline.repository import (
    RepositoryError,
    create_repository,
    default_collections,
    open_input_repository,
    open_writeable_repository,
)


def read_visits(root):
    """Return the visits of a repository, read as an input is."""
    with open_input_repository(root) as butler:
        return [ref.dataId["visit"] for ref in find_exposures(butler, [{}]).refs]


def test_command_makes_a_repository_that_any_butler_opens(tmp_path, capsys):
    assert make_repo.main([str(tmp_path / "repo")]) == 0
    assert f"Made repository {tmp_path}/repo" in capsys.readouterr().out
    with Butler.from_config(tmp_path / "repo") as butler:
        assert butler.get_dataset_type("calexp").storageClass.name == "VisitImage"
        assert [r.name for r in butler.query_dimension_records("instrument")] == ["TwinklesCam"]


def test_a_name_with_a_dot_is_a_directory_all_the_same(tmp_path):
    assert make_repo.main([str(tmp_path / "run1.v3")]) == 0
    assert (tmp_path / "run1.v3" / "butler.yaml").is_file()


def test_database_elsewhere(tmp_path):
    assert make_repo.main([str(tmp_path / "repo"), "--db", f"sqlite:///{tmp_path}/registry.db"]) == 0
    assert (tmp_path / "registry.db").is_file()
    assert not (tmp_path / "repo" / "gen3.sqlite3").exists()
    with open_writeable_repository(tmp_path / "repo") as butler:
        assert len(butler.query_dimension_records("physical_filter")) == 6


def test_a_repository_in_the_way_is_left_alone(tmp_path, capsys):
    make_repository(tmp_path / "repo").close()
    before = snapshot(tmp_path)
    assert make_repo.main([str(tmp_path / "repo")]) == 1
    assert "There is a repository" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("registry", "--db must be a database URL .* got 'registry'"),
        ("nosuch://host/name", "Cannot make a repository in"),
        ("sqlite:////dev/null/registry.db", "unable to open database file"),
    ],
)
def test_a_bad_database_leaves_nothing(tmp_path, capsys, url, message):
    assert make_repo.main([str(tmp_path / "repo"), "--db", url]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


def test_a_database_in_use_is_refused(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/registry.db"
    assert make_repo.main([str(tmp_path / "first"), "--db", url]) == 0
    assert make_repo.main([str(tmp_path / "second"), "--db", url]) == 1
    assert "non-empty database" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_a_missing_driver_is_named(tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2")

    monkeypatch.setattr(Butler, "makeRepo", fail)
    assert make_repo.main([str(tmp_path / "repo"), "--db", "postgresql://host/name"]) == 1
    assert "pip install psycopg2" in capsys.readouterr().err


def test_a_directory_that_cannot_be_made(capsys):
    with public_directory() as root:
        make_read_only(root)
        with without_privileges():
            assert make_repo.main([str(root / "repo")]) == 1
    assert f"Cannot make directory {root}/repo: Permission denied" in capsys.readouterr().err


def test_a_directory_that_cannot_be_written_to(capsys):
    with public_directory() as root:
        (root / "repo").mkdir()
        make_read_only(root)
        with without_privileges():
            assert make_repo.main([str(root / "repo")]) == 1
        assert list((root / "repo").iterdir()) == []
    assert f"Cannot make a repository in {root}/repo" in capsys.readouterr().err


def test_an_interrupt_leaves_no_repository(tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repository.TwinklesCam, "register", interrupt)
        assert make_repo.main([str(tmp_path / "repo")]) == 130
    assert list((tmp_path / "repo").iterdir()) == []
    assert make_repo.main([str(tmp_path / "repo")]) == 0


def test_a_failure_half_way_leaves_no_repository(tmp_path, monkeypatch, capsys):
    real, moved = Path.replace, []

    def move(self, target):
        if len(moved) == 1:
            raise OSError(28, "No space left on device")
        moved.append(Path(target))
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", move)
        assert make_repo.main([str(tmp_path / "repo")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in moved] == ["gen3.sqlite3"], "the configuration has to come last"
    assert list(tmp_path.iterdir()) == []
    assert make_repo.main([str(tmp_path / "repo")]) == 0


def test_of_two_at_the_same_time_one_makes_it(tmp_path):
    def attempt(_):
        try:
            create_repository(tmp_path / "repo").close()
        except RepositoryError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(attempt, range(2)), key=str)
    assert outcomes.count(None) == 1
    assert any("There is a repository" in str(outcome) for outcome in outcomes)
    assert read_visits(tmp_path / "repo") == []


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_what_is_no_repository_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for open_repository in (open_input_repository, open_writeable_repository):
        with pytest.raises(RepositoryError, match=f"{tmp_path}/{name} is not a"):
            open_repository(tmp_path / name)


@pytest.mark.parametrize("name", ["butler.yaml", "gen3.sqlite3"])
def test_a_damaged_repository_is_said_to_be_so(tmp_path, name):
    create_repository(tmp_path / "repo").close()
    (tmp_path / "repo" / name).write_bytes(b"\x00garbage: [")
    for open_repository in (open_input_repository, open_writeable_repository):
        with leaky_butler(), pytest.raises(RepositoryError, match=f"Cannot .* repository {tmp_path}/repo"):
            open_repository(tmp_path / "repo")


def test_a_lost_database_is_not_made_anew(tmp_path):
    create_repository(tmp_path / "repo").close()
    (tmp_path / "repo" / "gen3.sqlite3").unlink()
    with leaky_butler(), pytest.raises(RepositoryError, match="Cannot read"):
        open_input_repository(tmp_path / "repo")
    assert not (tmp_path / "repo" / "gen3.sqlite3").exists()


def test_reading_changes_nothing_on_disk(tmp_path):
    make_repository(tmp_path / "repo").close()
    before = snapshot(tmp_path)
    assert read_visits(tmp_path / "repo") == [1, 2, 3]
    assert snapshot(tmp_path) == before


def test_a_read_only_repository_is_read(tmp_path):
    with public_directory() as root:
        make_repository(root / "repo").close()
        make_read_only(root)
        before = snapshot(root)
        with without_privileges():
            assert read_visits(root / "repo") == [1, 2, 3]
            with pytest.raises(RepositoryError, match=r"Cannot write to repository .* check its permissions"):
                open_writeable_repository(root / "repo")
        assert snapshot(root) == before


def test_a_read_only_repository_in_wal_mode_is_read_from_a_copy():
    with public_directory() as root:
        make_repository(root / "repo").close()
        connection = sqlite3.connect(root / "repo" / "gen3.sqlite3")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        make_read_only(root)
        before = snapshot(root)
        with without_privileges(), leaky_butler():
            assert read_visits(root / "repo") == [1, 2, 3]
        assert snapshot(root) == before


def test_a_repository_left_in_the_middle_of_a_write_is_read_from_a_copy(caplog):
    with public_directory() as root:
        make_repository(root / "repo").close()
        leave_unfinished_transaction(root / "repo" / "gen3.sqlite3")
        make_read_only(root)
        before = snapshot(root)
        with without_privileges(), leaky_butler():
            assert read_visits(root / "repo") == [1, 2, 3]
        assert snapshot(root) == before
    assert "from a temporary copy" in caplog.text


def leave_unfinished_transaction(database):
    """Leave database and journal as a process does that is killed while it writes."""
    connection = sqlite3.connect(database, isolation_level=None)
    # A small cache makes it write changed pages into the database before the commit.
    connection.execute("PRAGMA cache_size=1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE unfinished (x)")
    connection.executemany("INSERT INTO unfinished VALUES (?)", [("y" * 3000,) for _ in range(200)])
    journal = database.with_name(f"{database.name}-journal")
    halfway = database.read_bytes(), journal.read_bytes()
    connection.close()
    database.write_bytes(halfway[0])
    journal.write_bytes(halfway[1])


def test_collections_to_look_in(tmp_path):
    with create_repository(tmp_path / "repo") as butler:
        assert default_collections(butler) == []
    with make_repository(tmp_path / "full") as butler:
        assert default_collections(butler) == ["TwinklesCam/defaults"]
        butler.collections.redefine_chain("TwinklesCam/defaults", [])
        assert default_collections(butler) == ["TwinklesCam/calexp"]
        assert default_collections(butler, "postISRCCD") == []
