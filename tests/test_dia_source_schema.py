"""The table of DIA sources against Rubin's Science Data Model, as lsst-sdm-schemas has it."""

from importlib.resources import files

import astropy.units as u
import felis
import numpy as np
import pandas
import pyarrow
import pytest
from astropy.table import Table
from astropy.time import Time
from command_runs import HERE, command, fetch
from lsst.images import Box
from lsst.images.fields import ChebyshevField
from small_exposures import draw_stars, make_exposure

from lsst.twinkles.diffim.pipeline.ingest import ExposureIngester
from lsst.twinkles.diffim.pipeline.repository import create_repository
from lsst.twinkles.diffim.tasks.dia_source_table import OWN_COLUMNS

COOKBOOK = str(HERE.parent / "config" / "diffimconfig.py")

# Columns that other stages add.
ELSEWHERE = {
    "diaObjectId", "ssObjectId", "ssObjectReassocTimeMjdTai",  # association
    "timeProcessedMjdTai", "timeWithdrawnMjdTai",  # database
}  # fmt: skip
TYPES = {
    "long": np.int64, "int": np.int32, "short": np.int16, "double": np.float64, "float": np.float32,
    "boolean": np.bool_,
}  # fmt: skip


@pytest.fixture(scope="module")
def schema():
    path = files("lsst.sdm.schemas") / "apdb.yaml"
    tables = felis.Schema.from_uri(str(path), context={"id_generation": True}).tables
    (table,) = [t for t in tables if t.name == "DiaSource"]
    return {column.name: column for column in table.columns}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Run the cookbook's command on two visits, whose images hold variable stars, against a third."""
    root = tmp_path_factory.mktemp("schema")
    rng = np.random.default_rng(5)
    stars = rng.uniform(20, 236, (40, 2))
    flux = np.geomspace(1e4, 1e6, 40)
    begin = Time(61000.0, format="mjd", scale="tai")
    with create_repository(root / "repo") as butler, ExposureIngester(butler) as ingester:
        for visit, sigma in ((230, 2.4), (231, 2.3), (250, 1.8)):
            image = rng.normal(0.0, 10.0, (256, 256))
            for k, (position, brightness) in enumerate(zip(stars, flux, strict=True)):
                change = 2e4 * (k in (3, 12, 20)) * (visit != 250)
                image += draw_stars(image.shape, [position], sigma=sigma, flux=brightness + change)
            scaling = ChebyshevField(Box.from_shape((256, 256)), np.array([[3.7]]), unit=u.nJy / u.electron)
            times = (begin + visit * u.min, begin + visit * u.min + 30 * u.s)
            ingester.add(
                make_exposure(image, visit=visit, band="i", sigma=sigma, scaling=scaling, times=times)
            )
    words = ["--id", "visit=230^231", "--templateId", "visit=250", "--output", root / "out"]
    run = command(*words, "-C", COOKBOOK, repo=root / "repo", config=False)
    assert run.status == 0, run.stderr
    return root / "out"


@pytest.fixture(scope="module")
def table(out):
    return fetch(out, "diaSrc", 230)


def test_a_real_output_has_every_column_of_the_model(schema, table):
    assert len(table) > 0
    assert set(schema) - set(table.colnames) == ELSEWHERE


def test_what_the_model_does_not_have_is_documented(schema, table):
    assert set(OWN_COLUMNS) <= set(table.colnames)
    assert not set(OWN_COLUMNS) & set(schema)
    assert set(table.colnames) - set(schema) == set(OWN_COLUMNS)


def test_types(schema, table):
    for name, column in schema.items():
        if name not in table.colnames:
            continue
        kind = column.datatype.value
        if kind in ("char", "string"):
            assert table[name].dtype.kind == "U", name
            longest = max((len(value) for value in table[name]), default=0)
            assert column.length is None or longest <= column.length, name
        else:
            assert table[name].dtype == TYPES[kind], name


def test_units(schema, table):
    for name, column in schema.items():
        if name not in table.colnames:
            continue
        unit = column.fits_tunit or column.ivoa_unit
        if unit is None:
            assert table[name].unit is None, name
        else:
            assert table[name].unit == u.Unit(unit), name


def test_nothing_that_must_be_there_is_missing(schema, table):
    for name, column in schema.items():
        if name in table.colnames and not column.nullable and table[name].dtype.kind == "f":
            assert np.isfinite(table[name]).all(), name


def test_the_butler_returns_the_form_that_is_asked_for(out, table):
    assert type(table) is Table and table["psfFlux"].unit == u.nJy
    assert table["psfFlux"].description
    frame = fetch(out, "diaSrc", 230, storageClass="DataFrame")
    assert isinstance(frame, pandas.DataFrame)
    arrow = fetch(out, "diaSrc", 230, storageClass="ArrowTable")
    assert isinstance(arrow, pyarrow.Table)
    for name in ("diaSourceId", "ra", "psfFlux", "isDipole", "band"):
        np.testing.assert_array_equal(np.asarray(frame[name]), np.asarray(table[name]))
        np.testing.assert_array_equal(arrow[name].to_numpy(), np.asarray(table[name]))


def test_identifiers_are_unique_over_visits(out, table):
    other = fetch(out, "diaSrc", 231)
    ids = np.concatenate([table["diaSourceId"], other["diaSourceId"]])
    assert len(other) > 0 and len(np.unique(ids)) == len(ids)
    known = set(ids) | {0}
    assert set(table["parentDiaSourceId"]) | set(other["parentDiaSourceId"]) <= known
