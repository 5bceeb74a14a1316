"""One configuration and one set of package versions per output repository."""

import pytest
from lsst.pex.config import Config, Field
from lsst.utils.packages import Packages, getPythonPackages
from repositories import files_below

from lsst.twinkles.diffim.pipeline import guards
from lsst.twinkles.diffim.pipeline.guards import (
    ConfigMismatchError,
    VersionMismatchError,
    guard_config,
    guard_versions,
)
from lsst.twinkles.diffim.pipeline.output_repository import open_output_repository
from lsst.twinkles.diffim.pipeline.repository import create_repository
from lsst.twinkles.diffim.tasks.get_template import GetCalexpAsTemplateConfig


@pytest.fixture
def output(tmp_path):
    with (
        create_repository(tmp_path / "repo") as butler,
        open_output_repository(tmp_path / "out", butler) as repository,
    ):
        yield repository


def make_config(tolerance=0.5):
    config = GetCalexpAsTemplateConfig()
    config.gridTolerance = tolerance
    return config


def stored_config(output):
    return output.butler.get(output.find("config"))


def test_first_configuration_is_stored_and_the_same_passes_again(output):
    guard_config(output, make_config())
    guard_config(output, make_config())
    assert stored_config(output).gridTolerance == 0.5
    assert files_below(output.root) == {"deepDiff/config.py"}


def test_another_configuration_is_refused_and_told_apart(output):
    guard_config(output, make_config(0.5))
    with pytest.raises(ConfigMismatchError, match=r"(?s)gridTolerance.*0\.5.*0\.25.*--clobber-config"):
        guard_config(output, make_config(0.25))
    assert stored_config(output).gridTolerance == 0.5


def test_a_configuration_of_another_task_is_refused(output):
    class Other(Config):
        gridTolerance = Field[float](doc="Of the same name.", default=0.5)

    guard_config(output, make_config())
    with pytest.raises(
        ConfigMismatchError, match="stored is a GetCalexpAsTemplateConfig, this run uses a Other"
    ):
        guard_config(output, Other())


@pytest.mark.parametrize("backup", [True, False])
def test_clobber_overwrites_with_or_without_a_copy(output, backup):
    guard_config(output, make_config(0.5))
    guard_config(output, make_config(0.25), clobber=True, backup=backup)
    assert stored_config(output).gridTolerance == 0.25
    copies = {"deepDiff/config.py~1"} if backup else set()
    assert files_below(output.root) == {"deepDiff/config.py"} | copies
    if backup:
        assert "gridTolerance=0.5" in (output.root / "deepDiff/config.py~1").read_text()


def use_versions(monkeypatch, **versions):
    monkeypatch.setattr(guards, "_find_packages", lambda: Packages(versions))


def stored_versions(output):
    return dict(output.butler.get(output.find("packages")))


def test_versions_are_those_of_this_process(output):
    import numpy

    guard_versions(output)
    assert stored_versions(output)["numpy"] == numpy.__version__
    guard_versions(output)


def test_another_version_is_refused(output, monkeypatch):
    use_versions(monkeypatch, galsim="2.8.5", piff="1.6.0")
    guard_versions(output)
    use_versions(monkeypatch, galsim="2.9.0", piff="1.6.0")
    with pytest.raises(
        VersionMismatchError, match=r"\(galsim: 2.8.5 stored, 2.9.0 now\).*--clobber-versions"
    ):
        guard_versions(output)
    assert stored_versions(output)["galsim"] == "2.8.5"
    guard_versions(output, skip=True)
    guard_versions(output, clobber=True)
    assert stored_versions(output)["galsim"] == "2.9.0"
    assert files_below(output.root) == {"deepDiff/packages.yaml", "deepDiff/packages.yaml~1"}


def test_packages_of_one_side_only_are_collected(output, monkeypatch):
    use_versions(monkeypatch, galsim="2.8.5")
    guard_versions(output)
    use_versions(monkeypatch, piff="1.6.0")
    guard_versions(output)
    assert stored_versions(output) == {"galsim": "2.8.5", "piff": "1.6.0"}


def test_skipping_stores_nothing(output):
    guard_versions(output, skip=True)
    assert files_below(output.root) == set()


def test_versions_found_quickly_are_those_that_the_framework_finds():
    found, reference = guards._find_imported(), getPythonPackages()

    assert {"python", "numpy", "yaml", "daf_butler", "twinkles_diffim"} <= found.keys() <= reference.keys()
    assert {name: reference[name] for name in found} == found
    # The framework also knows packages that have another name and tell no version (attrs, starlink-pyast).
    assert len(found) > 0.9 * len(reference)
