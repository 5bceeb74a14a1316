"""Data ids as people write them, resolved against a repository."""

import pytest
from repositories import make_image, make_repository

from lsst.twinkles.diffim.pipeline.data_ids import (
    DataIdError,
    find_exposures,
    resolve_data_ids,
    valid_keys,
)
from lsst.twinkles.diffim.pipeline.ingest import ingest_visit_image
from lsst.twinkles.diffim.pipeline.repository import create_repository

VISITS = ((2, "r"), (1, "r"), (3, "i"), (2025_01_02_00042, "z"))


@pytest.fixture(scope="module")
def butler(tmp_path_factory):
    with make_repository(tmp_path_factory.mktemp("data-ids") / "repo", VISITS) as butler:
        yield butler


def select(butler, **data_id):
    return [ref.dataId["visit"] for ref in find_exposures(butler, [data_id]).refs]


def test_keys_of_both_generations_are_understood():
    assert set(valid_keys()) >= {"ccd", "sensor", "raft", "detector", "filter", "band", "visit"}


@pytest.mark.parametrize(
    ("key", "value", "resolved"),
    [
        ("visit", "230", 230),
        ("raft", "2,2", "R22"),
        ("raft", "R22", "R22"),
        ("raft", "R:2,2", "R22"),
        ("sensor", "1,1", "S11"),
        ("sensor", "S11", "S11"),
        ("ccd", "94", 94),
        ("ccd", "1,1", "S11"),
        ("ccd", "R:2,2 S:1,1", "R22_S11"),
        ("detector", "R22_S11", "R22_S11"),
        ("filter", "r", "r"),
        ("day_obs", "20250102", 20250102),
    ],
)
def test_values_are_cast(key, value, resolved):
    assert resolve_data_ids([{key: value}]) == [{key: resolved}]


@pytest.mark.parametrize(
    "data_id",
    [
        {"ccd": "94"},
        {"ccd": "R22_S11"},
        {"ccd": "1,1"},
        {"detector": "94"},
        {"sensor": "1,1"},
        {"sensor": "S11"},
        {"raft": "2,2"},
        {"instrument": "TwinklesCam"},
        {"raft": "R22", "sensor": "S11", "ccd": "94"},
        {},
    ],
)
def test_every_name_of_the_ccd_selects_all_its_exposures(butler, data_id):
    assert select(butler, **data_id) == sorted(visit for visit, _ in VISITS)


@pytest.mark.parametrize("key", ["filter", "band", "physical_filter"])
def test_filters_select(butler, key):
    assert select(butler, **{key: "r"}) == [1, 2]
    assert select(butler, **{key: "i"}) == [3]


@pytest.mark.parametrize(
    "data_id",
    [
        {"visit": "4"},
        {"visit": "1", "filter": "i"},
        {"ccd": "95"},
        {"sensor": "0,0"},
        {"raft": "2,3"},
        {"instrument": "LSSTCam"},
    ],
)
def test_what_is_not_there_is_reported(butler, data_id):
    selection = find_exposures(butler, [{"visit": "1"}, data_id])
    assert [ref.dataId["visit"] for ref in selection.refs] == [1]
    assert list(selection.missing) == resolve_data_ids([data_id])


def test_order_is_that_of_the_data_ids_and_repeats_stay(butler):
    wanted = [{"visit": v} for v in ("3", "2025010200042", "1", "3")]
    refs = find_exposures(butler, wanted).refs
    assert [ref.dataId["visit"] for ref in refs] == [3, 2025_01_02_00042, 1, 3]


def test_dimension_records_come_along(butler):
    (ref,) = find_exposures(butler, [{"visit": "3"}]).refs
    assert ref.dataId["band"] == "i"
    assert ref.dataId.records["detector"].raft == "R22"


def test_nothing_is_selected_by_no_data_id(butler):
    assert find_exposures(butler, []).refs == ()


def test_unknown_key_names_the_known_ones(butler):
    with pytest.raises(DataIdError, match=r"Unrecognized ID key 'tract'; valid keys are: \['band', 'ccd'"):
        find_exposures(butler, [{"tract": "0"}])


@pytest.mark.parametrize("value", ["r", "", "1.5", "1,1"])
def test_a_visit_has_to_be_a_number(value):
    with pytest.raises(DataIdError, match=f"Cannot cast value '{value}' to int for ID key 'visit'"):
        resolve_data_ids([{"visit": value}])


def test_an_empty_name_is_refused():
    with pytest.raises(DataIdError, match="Cannot cast value '' to str for ID key 'filter'"):
        resolve_data_ids([{"filter": ""}])


def test_a_repository_without_exposures_has_none(tmp_path):
    with create_repository(tmp_path / "repo") as butler:
        selection = find_exposures(butler, [{"visit": "1"}, {}])
    assert selection.refs == ()
    assert selection.missing == ({"visit": 1}, {})


def test_a_dataset_type_nobody_registered_has_none(butler):
    assert find_exposures(butler, [{"visit": "1"}], "postISRCCD").refs == ()


def test_the_newest_run_wins_and_collections_choose(tmp_path):
    with create_repository(tmp_path / "repo") as butler:
        for run in ("first", "second"):
            ingest_visit_image(butler, make_image(visit=1), run=run)
        (newest,) = find_exposures(butler, [{"visit": 1}]).refs
        (chosen,) = find_exposures(butler, [{"visit": 1}], collections="first").refs
    assert (newest.run, chosen.run) == ("second", "first")
