"""Exposures of a pair are read at the same time, the first pair ahead."""

import threading
from types import SimpleNamespace

import pytest

from lsst.twinkles.diffim.cli.pair_reader import PairReader
from lsst.twinkles.diffim.cli.pairs import ExposurePair
from lsst.twinkles.diffim.tasks.errors import UnusableExposureError

FIRST, SECOND = ExposurePair("science 1", "template 1"), ExposurePair("science 2", "template 2")


class FakeButler:
    """Gives back what it is asked for; clones count together."""

    def __init__(self, meeting=None, broken=(), reads=None):
        self.meeting, self.broken = meeting, broken
        self.reads = [] if reads is None else reads
        self.is_open = True

    def clone(self):
        self.last = FakeButler(self.meeting, self.broken, self.reads)
        return self.last

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.is_open = False

    def get(self, ref):
        if self.meeting is not None:
            self.meeting.wait(timeout=20)
        self.reads.append(ref)
        if ref in self.broken:
            raise OSError("rubbish\nand more of it")
        return ref.upper()

    def getURI(self, ref):
        return SimpleNamespace(ospath=f"/files/{ref}.fits")


@pytest.fixture(params=["1", "2"])
def threads(request, monkeypatch):
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", request.param)
    return int(request.param)


def test_pairs_are_read_one_after_the_other(threads):
    butler = FakeButler()
    with PairReader(butler) as reader:
        reader.read_ahead(FIRST)
        assert reader.read(FIRST) == ("SCIENCE 1", "TEMPLATE 1")
        assert reader.read(SECOND) == ("SCIENCE 2", "TEMPLATE 2")
    assert sorted(butler.reads) == ["science 1", "science 2", "template 1", "template 2"]
    assert butler.is_open  # its owner closes it


def test_with_threads_both_are_read_at_the_same_time_and_before_they_are_asked_for(monkeypatch):
    monkeypatch.setenv("TWINKLES_DIFFIM_NUM_THREADS", "2")
    butler = FakeButler(threading.Barrier(3))
    with PairReader(butler) as reader:
        reader.read_ahead(FIRST)
        # Breaks if two readers do not come here by themselves.
        butler.meeting.wait(timeout=20)
        assert reader.read(FIRST) == ("SCIENCE 1", "TEMPLATE 1")
    assert not butler.last.is_open


def test_another_pair_than_the_one_that_was_begun_is_read_as_well(threads):
    with PairReader(FakeButler()) as reader:
        reader.read_ahead(FIRST)
        assert reader.read(SECOND) == ("SCIENCE 2", "TEMPLATE 2")


def test_an_unreadable_file_is_named_when_it_is_needed(threads):
    with PairReader(FakeButler(broken=["template 1"])) as reader:
        reader.read_ahead(FIRST)
        with pytest.raises(UnusableExposureError) as caught:
            reader.read(FIRST)
    assert str(caught.value) == (
        "Cannot read the template exposure, /files/template 1.fits: OSError: rubbish; ingest it again."
    )
