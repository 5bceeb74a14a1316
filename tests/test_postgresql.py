"""Repositories whose registry is a PostgreSQL database.

``etc/with-postgresql`` starts a server for the tests and names it in the environment.
"""

import gc
import os
import shutil
import uuid

import pytest
import sqlalchemy
from command_runs import HERE, command, pair_words, stored, visits_done
from lsst.daf.butler import Butler
from repositories import make_image, snapshot
from test_graph_workers import run as run_pipeline

from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import RepositoryError, create_repository

SERVER = os.environ.get("TWINKLES_DIFFIM_TEST_POSTGRESQL")
pytestmark = pytest.mark.skipif(not SERVER, reason="needs a server: etc/with-postgresql make test")


def execute(url, *statements):
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(sqlalchemy.text(statement))
    engine.dispose()


@pytest.fixture(scope="module")
def new_database():
    """A function that makes an empty database and returns its URL."""
    names = []

    def make(*, with_extension=True):
        names.append(f"test_{uuid.uuid4().hex}")
        execute(SERVER, f"CREATE DATABASE {names[-1]}")
        url = str(sqlalchemy.make_url(SERVER).set(database=names[-1]).render_as_string(hide_password=False))
        if with_extension:
            execute(url, "CREATE EXTENSION btree_gist")
        return url

    yield make
    for name in names:
        execute(SERVER, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def repo(new_database, tmp_path_factory):
    """A repository with three science visits and a template."""
    root = tmp_path_factory.mktemp("postgresql") / "repo"
    with create_repository(root, db=new_database()) as butler, ExposureIngester(butler) as ingester:
        for visit in (1, 2, 3, 9):
            ingester.add(make_image(visit, visit=visit, band="r"))
    yield root
    shutil.rmtree(root)


def test_it_is_one(repo):
    assert "postgresql" in (repo / "butler.yaml").read_text()
    assert not list(repo.rglob("*.sqlite3"))
    with Butler.from_config(str(repo)) as butler:
        refs = butler.query_datasets("calexp", "TwinklesCam/defaults", explain=False)
    assert sorted(ref.dataId["visit"] for ref in refs) == [1, 2, 3, 9]


def test_the_command_subtracts_from_it_and_leaves_it_alone(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    before = snapshot(repo)
    out = tmp_path / "out"
    words = [*pair_words(out, "1..3", 9), "-j", "2"]
    run = command(*words, repo=repo)
    assert run.status == 0, run.stderr
    assert visits_done(out) == [1, 2, 3]
    first = stored(out)
    assert command(*words, repo=repo).lines("Of 3 data ids: 3 skipped")
    assert stored(out) == first
    assert snapshot(repo) == before


def test_workers_write_into_it_at_the_same_time(repo, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    assert run_pipeline(repo, "-j", "2", visits=(1, 2, 3)) == 0
    with Butler.from_config(str(repo), collections="u/run") as butler:
        refs = butler.query_datasets("deepDiff_differenceExp", explain=False)
        assert sorted(ref.dataId["visit"] for ref in refs) == [1, 2, 3]
        assert all(butler.get(ref).image.array.shape == (48, 48) for ref in refs)


# The framework leaves the connection of a Butler that fails to open to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_database_without_the_extension_is_refused_with_the_cure(new_database, tmp_path):
    with pytest.raises(RepositoryError, match=r"CREATE EXTENSION btree_gist"):
        create_repository(tmp_path / "repo", db=new_database(with_extension=False))
    assert not (tmp_path / "repo" / "butler.yaml").exists()
    gc.collect()
