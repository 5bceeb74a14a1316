"""What root executes."""

import os
import sys

import pytest
from command_runs import repository
from lsst.pex.config import Config, Field
from repositories import NOBODY, leaky_butler

from lsst.twinkles.diffim.cli import trust
from lsst.twinkles.diffim.cli.gen2_parser import Gen2ArgumentParser
from lsst.twinkles.diffim.cli.image_difference import main as image_difference
from lsst.twinkles.diffim.cli.override_files import ConfigOverrideError, apply_overrides, load_override_file
from lsst.twinkles.diffim.cli.run_pipeline import main as run_pipeline

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


class OneConfig(Config):
    number = Field[int](doc="A number.", default=0)


@pytest.fixture
def override(tmp_path):
    """An override file in a directory of its own, that changes what it does to the world too."""
    directory = tmp_path / "overrides"
    directory.mkdir(mode=0o755)
    file = directory / "mine.py"
    file.write_text(f"config.number = 7\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n")
    file.chmod(0o644)
    return file


def load(file, **kwargs):
    config = OneConfig()
    load_override_file(config, file, **kwargs)
    return config.number


@needs_root
def test_run_pipeline_refuses_them_too(override, tmp_path, capsys):
    os.chown(override, NOBODY, 0)
    words = ["-b", str(tmp_path), "-i", "in", "-o", "out", "-p", "none.yaml", "-C", f"subtract:{override}"]
    assert run_pipeline(words) == 2
    assert f"belongs to user {NOBODY}" in capsys.readouterr().err
    # One that is trusted gets as far as the pipeline, which is not there.
    assert run_pipeline([*words, "--trust-config"]) != 0
    assert "belongs to user" not in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


@needs_root
def test_root_executes_what_is_roots(override):
    assert load(override) == 7


@needs_root
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: os.chown(file, NOBODY, 0), rf"mine\.py belongs to user {NOBODY}"),
        (lambda file: file.chmod(0o646), r"mine\.py may be written to by everybody"),
        (lambda file: (os.chown(file, 0, NOBODY), file.chmod(0o664)), rf"mine\.py .* by group {NOBODY}"),
        (lambda file: os.chown(file.parent, NOBODY, 0), rf"overrides belongs to user {NOBODY}"),
        (lambda file: file.parent.chmod(0o777), r"overrides may be written to by everybody"),
    ],
)
def test_root_refuses_what_others_may_have_written_unless_forced(override, tmp_path, spoil, reason):
    spoil(override)
    with pytest.raises(ConfigOverrideError, match=rf"rights of root.*{reason}.*--trust-config"):
        load(override)
    assert not (tmp_path / "executed").exists()
    assert load(override, trust=True) == 7


@needs_root
def test_root_looks_at_what_a_link_leads_to(override, tmp_path):
    link = tmp_path / "link.py"
    link.symlink_to(override)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert load(link) == 7
    os.chown(override, NOBODY, 0)
    with pytest.raises(ConfigOverrideError, match=r"mine\.py belongs to user"):
        load(link)


@needs_root
def test_a_directory_where_everybody_keeps_his_own_will_do(override):
    override.parent.chmod(0o1777)  # as /tmp
    assert load(override) == 7


@needs_root
def test_the_owner_of_the_package_is_trusted(override, monkeypatch, tmp_path):
    package = tmp_path / "trust.py"
    package.write_text("")
    os.chown(package, NOBODY, 0)
    os.chown(override, NOBODY, 0)
    monkeypatch.setattr(trust, "__file__", str(package))
    assert load(override) == 7


def test_others_execute_what_they_like(override, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    override.chmod(0o666)
    assert load(override) == 7


def test_a_file_that_is_not_there_is_said_to_be(tmp_path):
    with pytest.raises(ConfigOverrideError, match=r"nowhere\.py"):
        load(tmp_path / "nowhere.py")


@pytest.mark.parametrize("words", [[], ["--trust-config"]])
def test_the_option_of_the_command(override, tmp_path, monkeypatch, words):
    seen = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        "lsst.twinkles.diffim.cli.trust.find_reason_for_distrust",
        lambda path: seen.append(path) or "it is a test",
    )
    parser = Gen2ArgumentParser("x", "y")
    args = parser.parse([str(tmp_path), "--output", "OUT", "-C", str(override), *words])
    config = OneConfig()
    if words:
        apply_overrides(config, args.overrides, trust=args.trust_config)
        assert config.number == 7 and not seen
    else:
        with pytest.raises(ConfigOverrideError, match="it is a test"):
            apply_overrides(config, args.overrides, trust=args.trust_config)


@needs_root
def test_what_a_file_loads_itself_is_looked_at_too(override, tmp_path):
    outer = tmp_path / "outer.py"
    outer.write_text(f"config.load({str(override)!r})\n")
    assert load(outer) == 7
    (tmp_path / "executed").unlink()
    override.chmod(0o646)
    with pytest.raises(ConfigOverrideError, match=r"rights of root.*mine\.py may be written to by everybody"):
        load(outer)
    assert not (tmp_path / "executed").exists()
    assert load(outer, trust=True) == 7
    # By a path relative to the file that loads it, as pex_config reads them, too.
    outer.write_text("config.load('overrides/mine.py')\n")
    with pytest.raises(ConfigOverrideError, match=r"mine\.py may be written to by everybody"):
        load(outer)
    # The guard ends with the command's file: what other code loads is not its business.
    config = OneConfig()
    config.load(str(override))
    assert config.number == 7


@needs_root
def test_a_pipeline_whose_files_load_others(override, tmp_path, capsys):
    outer = tmp_path / "outer.py"
    outer.write_text(f"config.load({str(override)!r})\n")
    override.chmod(0o646)
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(f"description: x\ntasks:\n  imageDifference:\n    class: {TASK}\n")
    words = ["-b", str(repository()), "-i", "TwinklesCam/defaults", "-o", "u/out", "-p", str(pipeline)]
    assert run_pipeline([*words, "-C", f"imageDifference:{outer}"]) == 2
    assert "may be written to by everybody" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


TASK = "lsst.twinkles.diffim.pipeline.image_difference.ImageDifferencePipelineTask"


@pytest.fixture
def pipeline(tmp_path):
    """A pipeline in a directory of its own, of which a block is executed."""
    folder = tmp_path / "pipelines"
    folder.mkdir(mode=0o755)
    file = folder / "mine.yaml"
    write_pipeline(file, f"python: |\n        open({str(tmp_path / 'executed')!r}, 'w').close()")
    return file


def write_pipeline(path, block):
    path.write_text(
        f"description: x\ntasks:\n  imageDifference:\n    class: {TASK}\n    config:\n      {block}\n"
    )
    path.chmod(0o644)


def show_pipeline(path, *more):
    """Run the command as far as the configuration of the task."""
    words = ["-b", str(repository()), "-i", "TwinklesCam/defaults", "-o", "u/out", "-p", str(path)]
    with leaky_butler():  # the middleware leaves closing to the end of the process
        return run_pipeline([*words, "--show", "config", "-c", "imageDifference:templateVisit=250", *more])


@needs_root
@pytest.mark.parametrize("imported", [False, True])
def test_a_pipeline_that_others_may_have_written(pipeline, tmp_path, capsys, imported):
    given = pipeline
    if imported:
        given = tmp_path / "outer.yaml"
        given.write_text(f"description: x\nimports:\n  - location: {pipeline}\n")
    assert show_pipeline(f"{given}#imageDifference") == 0
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    os.chown(pipeline, NOBODY, 0)
    assert show_pipeline(given) == 2
    said = capsys.readouterr().err
    assert f"{pipeline} would be executed with the rights of root" in said
    assert f"belongs to user {NOBODY}" in said and "--trust-config" in said
    assert not (tmp_path / "executed").exists()
    assert show_pipeline(given, "--trust-config") == 0
    assert (tmp_path / "executed").exists()


@needs_root
def test_a_file_that_a_pipeline_names(pipeline, override, tmp_path, capsys):
    override.write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    write_pipeline(pipeline, f"file: {override}")
    assert show_pipeline(pipeline) == 0
    (tmp_path / "executed").unlink()
    override.chmod(0o646)
    assert show_pipeline(pipeline) == 2
    assert "mine.py may be written to by everybody" in capsys.readouterr().err
    # By a URI on the command line, too.
    write_pipeline(pipeline, "doDecorrelation: false")
    assert show_pipeline(pipeline, "-C", f"imageDifference:file://{override}") == 2
    assert "mine.py may be written to by everybody" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


@needs_root
def test_a_stored_graph_and_what_is_on_no_file_system(tmp_path, capsys):
    graph = tmp_path / "graph.qg"
    graph.write_bytes(b"")
    os.chown(graph, NOBODY, 0)
    words = ["-b", str(repository()), "-i", "in", "-o", "out"]
    assert run_pipeline([*words, "-g", str(graph)]) == 2
    assert f"belongs to user {NOBODY}" in capsys.readouterr().err
    assert run_pipeline([*words, "-p", "http://localhost/mine.yaml"]) == 2
    assert "not a file on this machine" in capsys.readouterr().err


@needs_root
def test_pipelines_of_the_package_are_trusted_and_the_guard_ends(pipeline):
    from lsst.pipe.base.pipelineIR import PipelineIR

    pipeline.chmod(0o646)
    with trust.guard_pipelines(trust=False):
        place = "resource://lsst.twinkles.diffim/data/pipelines/TwinklesImageDifference.yaml"
        assert PipelineIR.from_uri(place).tasks
        with pytest.raises(trust.UntrustedFileError):
            PipelineIR.from_uri(str(pipeline))
    assert PipelineIR.from_uri(str(pipeline)).tasks


@pytest.fixture
def debug_module(tmp_path, monkeypatch):
    """A module ``debug`` that says that it was executed."""
    folder = tmp_path / "modules"
    folder.mkdir()
    file = folder / "debug.py"
    file.write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "debug", raising=False)
    yield file
    sys.modules.pop("debug", None)


@needs_root
def test_the_module_of_debug(debug_module, tmp_path, capsys):
    words = [str(repository()), "--id", "visit=1", "--output", str(tmp_path / "out"), "--debug"]
    debug_module.chmod(0o646)
    assert image_difference(words) != 0
    assert "debug.py would be executed with the rights of root" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
    image_difference([*words, "--trust-config"])
    assert (tmp_path / "executed").exists()


@needs_root
def test_the_module_of_debug_of_run_pipeline(debug_module, tmp_path, capsys):
    os.chown(debug_module, NOBODY, 0)
    words = ["-b", str(tmp_path), "-i", "in", "-o", "out", "-p", "none.yaml", "--debug"]
    assert run_pipeline(words) == 2
    assert "debug.py" in (text := capsys.readouterr().err) and f"belongs to user {NOBODY}" in text


def test_a_module_that_is_nowhere():
    assert not trust.import_trusted("nowhere_to_be_found", trust=False)
    assert trust.import_trusted("json", trust=False)
