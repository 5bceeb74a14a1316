"""A bad subtraction is an error whose results are kept, and which a later run makes again."""

import logging
from types import SimpleNamespace

import pytest
from command_runs import command, fetch, pair_words, stored
from lsst.pipe.base import AnnotatedPartialOutputsError, Struct, TaskMetadata

from lsst.twinkles.diffim.pipeline import quantum
from lsst.twinkles.diffim.tasks.errors import BadSubtractionError

BAD = """
from stub_stages import StubAssessTask
config.assess.retarget(StubAssessTask)
config.assess.badVisits = [230]
"""


@pytest.fixture
def overrides(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(BAD)
    return ["-C", str(path)]


def test_results_of_a_bad_subtraction_are_kept(tmp_path, overrides):
    out = tmp_path / "out"
    run = command(*pair_words(out, "230^231"), *overrides)
    assert run.status == 1 and run.lines("Failed on", "230", "40 percent of the stars")
    kinds = {(name, visit) for name, visit in stored(out) if visit}
    for name in ("differenceExp", "diaSrc", "metrics", "metadata"):
        assert {(f"deepDiff_{name}", 230), (f"deepDiff_{name}", 231)} <= kinds
    assert fetch(out, "metrics", 230)["verdict"] == "good"
    assert "40 percent" in fetch(out, "metadata", 230).to_dict()["run"]["failure"]
    # The good one is done, the bad one is tried again; it is no error if it is not to be one.
    again = command(*pair_words(out, "230^231"), *overrides)
    assert again.status == 1 and again.lines("231", "was done by an earlier run")
    assert not again.lines("230", "was done by an earlier run")
    last = command(
        *pair_words(out, 230), *overrides, "-c", "raiseOnBadSubtractionRatio=False", "--clobber-config"
    )
    assert last.status == 0 and "failure" not in fetch(out, "metadata", 230).to_dict()["run"]


def test_a_quantum_keeps_them_too(monkeypatch):
    """Whichever way the template came: what was made is written before the error is raised."""
    written = []
    monkeypatch.setattr(quantum, "describe_template", lambda difference, template, ref: ref)
    result = Struct(subtractedExposure=SimpleNamespace(templates=None), diaSources="sources")

    def fail(science, template, idFactory):
        error = BadSubtractionError("40 percent of the stars")
        error.partial_outputs = result
        raise error

    task = SimpleNamespace(run=fail, log=logging.getLogger("test"), metadata=TaskMetadata())
    context = SimpleNamespace(
        quantum=SimpleNamespace(dataId={"visit": 1, "detector": 94}),
        put=lambda outputs, refs: written.append(outputs),
    )
    refs = [("differenceExp", None), ("diaSrc", None)]
    with pytest.raises(AnnotatedPartialOutputsError):
        quantum.difference_quantum(
            task, context, refs, science="science", template="template", template_ref="template 7"
        )
    (outputs,) = written
    assert outputs.diaSrc == "sources" and outputs.differenceExp.templates == ["template 7"]
