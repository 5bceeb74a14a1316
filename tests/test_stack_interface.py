"""The interface of our tasks is that of ip_diffim's: names, types, defaults, datasets, arguments.

``data/ip_diffim_interface.json`` holds the facts, read off the running code of a weekly of spring 2026.
"""

import inspect
import json
from pathlib import Path

import pytest
from lsst.pex.config import Config, ConfigField, ConfigurableField, ListField
from lsst.pipe.base import Pipeline, PipelineTask

from lsst.twinkles.diffim import stack

FACTS = json.loads((Path(__file__).parent / "data" / "ip_diffim_interface.json").read_text())
TASKS = [name for name in FACTS if name.endswith("Task") and hasattr(stack, name)]

# Where a default differs, and why.
OTHER_DEFAULTS = {
    "fitForBackground": "what the stack's subtraction sets it to",
    "spatialKernelOrder": "what the stack's subtraction sets it to",
    "spatialBgOrder": "what the stack's subtraction sets it to",
    "maxSpatialIterations": "rounds of clipping of our fit",
    "badMaskPlanes": "BAD pixels get no weight either",
    "edge": "a flag that its weekly dropped later",
}


def find_type(field):
    if isinstance(field, ListField):
        return "List"
    if isinstance(field, ConfigurableField):
        return "Task"
    if isinstance(field, ConfigField):
        return "Config"
    return field.dtype.__name__


def check_fields(config: Config, facts):
    """Compare a configuration with recorded fields; return names of fields with another default."""
    others = set()
    for name, (kind, default) in facts.items():
        assert name in type(config)._fields, f"{type(config).__name__} has no field {name}"
        field = type(config)._fields[name]
        if kind == "NoneType" or type(field).__name__.startswith(("ConfigChoice", "Registry")):
            continue
        assert find_type(field) == kind, name
        if kind not in ("Task", "Config"):
            value = getattr(config, name)
            value = list(value) if kind == "List" else value
            if value != default:
                others.add(name)
    return others


def check_task(ours, facts, *, exact):
    """Hold a task of ours to facts of the stack's: exactly, or else nothing of theirs may be missing."""
    others = check_fields(ours.ConfigClass(), facts["fields"])
    assert not exact or others <= ({"badSourceFlags"} if "Detect" in ours.__name__ else set())
    connections = facts_of(ours)["connections"]
    assert {name: connections.get(name) for name in facts["connections"]} == facts["connections"]
    assert not exact or set(connections) == set(facts["connections"])
    assert facts_of(ours)["dimensions"] == facts["dimensions"]
    assert facts_of(ours)["run"] == facts["run"] and facts_of(ours)["templates"] == facts["templates"]
    assert ours._DefaultName == facts["defaultName"]


def facts_of(task):
    """Read the facts off a class, in the form in which they are kept."""
    config = task.ConfigClass()
    fields = {}
    for name, field in type(config)._fields.items():
        special = type(field).__name__.startswith(("ConfigChoice", "Registry"))
        kind = "NoneType" if special else find_type(field)
        value = None if special or kind in ("Task", "Config") else getattr(config, name)
        fields[name] = [kind, list(value) if kind == "List" and value is not None else value]
    there = {}
    connections = config.ConnectionsClass
    for label, connection in connections.allConnections.items():
        dimensions = sorted(getattr(connection, "dimensions", ()))
        there[label] = [type(connection).__name__, connection.name, connection.storageClass, dimensions]
    parameters = list(inspect.signature(task.run).parameters.values())[1:]
    run = [[p.name, None if p.default is inspect.Parameter.empty else str(p.default)] for p in parameters]
    return {
        "defaultName": task._DefaultName,
        "fields": fields,
        "connections": there,
        "dimensions": sorted(connections.dimensions),
        "templates": dict(connections.defaultTemplates),
        "run": run,
    }


@pytest.mark.parametrize("name", TASKS)
def test_interface(name):
    task = getattr(stack, name)
    assert issubclass(task, PipelineTask)
    check_task(task, FACTS[name], exact=True)
    connections = getattr(stack, f"{name.removesuffix('Task')}Connections")
    assert task.ConfigClass.ConnectionsClass is connections


def test_configuration_of_the_kernel():
    config = stack.AlardLuptonSubtractTask.ConfigClass().makeKernel
    facts = FACTS["AlardLuptonSubtractTask"]
    assert check_fields(config.kernel.active, facts["kernelAL"]) <= set(OTHER_DEFAULTS)
    assert check_fields(config.value, facts["makeKernel"]) <= set(OTHER_DEFAULTS)
    assert {"AL", "DF"} <= set(config.kernel.types)
    decorrelate = stack.AlardLuptonSubtractTask.ConfigClass().decorrelate.value
    assert not check_fields(decorrelate, facts["decorrelate"])


def test_errors():
    from lsst.pipe.base import AlgorithmError

    from lsst.twinkles.diffim.stack import errors

    made = {
        "InsufficientKernelSourcesError": errors.insufficient_kernel_sources(2, 3),
        "BadSubtractionError": errors.bad_subtraction(0.5, 0.2),
        "NoDiaSourcesError": errors.no_dia_sources(),
    }
    for name, error in made.items():
        assert type(error).__name__ == name and isinstance(error, AlgorithmError)
        for argument, _ in FACTS["exceptions"][name]:
            assert error.metadata[argument] == getattr(error, argument)


AP_PIPE = """
description: As in ap_pipe, with our classes.
parameters:
  coaddName: goodSeeing
tasks:
  subtractImages:
    class: lsst.twinkles.diffim.stack.AlardLuptonSubtractTask
    config:
      connections.coaddName: parameters.coaddName
      connections.science: preliminary_visit_image
      connections.sources: single_visit_star_footprints
      connections.template: template_detector
      connections.difference: difference_image_predetection
      connections.matchedTemplate: template_matched
      connections.psfMatchingKernel: difference_kernel
      connections.kernelSources: difference_kernel_sources
      doApplyExternalCalibrations: False
      python: |
        config.makeKernel.kernel.name = "AL"
        config.makeKernel.kernel.active.fitForBackground = True
        config.sourceSelector.signalToNoise.minimum = 20
"""


def test_pipeline_class_line():
    pipeline = Pipeline.fromString(AP_PIPE)
    graph = pipeline.to_graph()
    task = graph.tasks["subtractImages"]
    assert task.task_class is stack.AlardLuptonSubtractTask
    assert set(task.outputs) == {"difference", "matchedTemplate", "psfMatchingKernel", "kernelSources"}
    assert task.get_output_edge("difference").dataset_type_name == "difference_image_predetection"
    assert task.get_input_edge("template").dataset_type_name == "template_detector"
    assert task.config.sourceSelector.signalToNoise.minimum == 20.0
    from lsst.daf.butler import StorageClassFactory

    factory = StorageClassFactory()
    assert factory.getStorageClass("ExposureF") and factory.getStorageClass("MatchingKernel")


def test_retarget():
    class OtherConfig(Config):
        subtract = ConfigurableField(doc="Any subtraction.", target=stack.AlardLuptonSubtractTask)

    config = OtherConfig()
    config.subtract.retarget(stack.AlardLuptonSubtractTask)
    config.subtract.mode = "auto"
    assert config.subtract.apply().config.mode == "auto"


def test_configuration_survives_a_file(tmp_path):
    for name in TASKS:
        config = getattr(stack, name).ConfigClass()
        config.connections.coaddName = "goodSeeing"
        config.save(tmp_path / "config.py")
        loaded = type(config)()
        loaded.load(tmp_path / "config.py")
        assert config.compare(loaded, shortcut=False)


def test_facts_are_those_of_the_running_code(shared_data):
    """The facts kept here are those read off the stack."""
    whole = json.loads((shared_data / "ip_diffim" / "interface.json").read_text())
    for name, facts in FACTS.items():
        if name == "exceptions":
            continue
        for label, connection in facts["connections"].items():
            real = whole[name]["connections"][label]
            assert connection[:3] == [real["kind"], real["name"], real["storageClass"]]
        for label, (kind, default) in facts["fields"].items():
            real = whole[name]["config"][label]
            if kind not in ("Task", "Config"):
                assert default == real["default"]
        assert [a[0] for a in facts["run"]] == [a["name"] for a in whole[name]["run"][1:]]
        assert facts.get("struct") == whole[name].get("struct")
        assert facts.get("schema") == whole[name].get("schema")
