"""The table of DIA sources against Rubin's Science Data Model, as lsst-sdm-schemas has it."""

from importlib.resources import files

import astropy.units as u
import felis
import numpy as np
import pytest
from small_pairs import make_pair

from lsst.twinkles.diffim.tasks.dia_source_table import OWN_COLUMNS
from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceTask

# Columns that other stages add.
ELSEWHERE = {
    "diaObjectId", "ssObjectId", "ssObjectReassocTimeMjdTai",  # association
    "timeProcessedMjdTai", "timeWithdrawnMjdTai",  # database
    "glint_trail",
}  # fmt: skip
OPTIONAL = {"reliability", "reliabilityVersion"}
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
def table():
    pair = make_pair(seed=3, n_stars=20, shape=(320, 330), noise=1.0, n_transients=4)
    return TwinklesImageDifferenceTask().run(pair.science, pair.template).diaSources


def test_a_real_output_has_every_column_of_the_model(schema, table):
    assert len(table) > 0
    assert set(schema) - set(table.colnames) - OPTIONAL == ELSEWHERE


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
        else:
            assert table[name].dtype == TYPES[kind], name


def test_units(schema, table):
    for name, column in schema.items():
        if name not in table.colnames:
            continue
        unit = column.fits_tunit or column.ivoa_unit
        if unit is None:
            assert table[name].unit is None, name
        elif unit == "nJy" and table[name].unit == u.electron:
            continue  # not calibrated
        else:
            assert table[name].unit == u.Unit(unit), name


def test_nothing_that_must_be_there_is_missing(schema, table):
    for name, column in schema.items():
        if name in table.colnames and not column.nullable and table[name].dtype.kind == "f":
            assert np.isfinite(table[name]).all(), name
