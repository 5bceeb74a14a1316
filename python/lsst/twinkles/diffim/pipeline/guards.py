"""One configuration and one set of package versions per output repository."""

from __future__ import annotations

__all__ = ("ConfigMismatchError", "VersionMismatchError", "guard_config", "guard_versions")

import importlib.metadata
import logging
import sys

from lsst.pex.config import Config
from lsst.utils.packages import Packages, getCondaPackages, getEnvironmentPackages

from .output_repository import OutputRepository, put_outputs


class ConfigMismatchError(RuntimeError):
    """The output repository was made with another configuration."""


class VersionMismatchError(RuntimeError):
    """The output repository was made with other versions of packages."""


def guard_config(
    repository: OutputRepository, config: Config, *, clobber: bool = False, backup: bool = True
) -> None:
    """Store the configuration of a run, or compare it with the stored one.

    Parameters
    ----------
    repository : `OutputRepository`
        Where the results go.
    config : `lsst.pex.config.Config`
        Configuration of the run.
    clobber : `bool`, optional
        Overwrite a stored configuration instead of comparing.
    backup : `bool`, optional
        When overwriting, keep the old file as ``file~N``.

    Raises
    ------
    ConfigMismatchError
        If another configuration is stored and ``clobber`` is not set.
    """
    ref = repository.find("config")
    if ref is not None and not clobber:
        differences = _compare_configs(repository.butler.get(ref), config)
        if differences:
            raise ConfigMismatchError(
                f"Config does not match existing task config {ref.datasetType.name!r} in {repository.root}: "
                f"{'; '.join(differences)}. One output repository takes one configuration: give another "
                "--output (override with --clobber-config)"
            )
        return
    put_outputs(repository, {}, {"config": config}, backup=backup and clobber)


def guard_versions(
    repository: OutputRepository, *, clobber: bool = False, backup: bool = True, skip: bool = False
) -> None:
    """Store the versions of the packages in use, or compare with the stored.

    Parameters
    ----------
    repository : `OutputRepository`
        Where the results go.
    clobber : `bool`, optional
        Overwrite stored versions instead of comparing.
    backup : `bool`, optional
        When overwriting, keep the old file as ``file~N``.
    skip : `bool`, optional
        Neither compare nor store.

    Raises
    ------
    VersionMismatchError
        If a package is stored with another version and ``clobber`` is not
        set. Packages that only one side has do no harm: they are added.
    """
    if skip:
        return
    packages = _find_packages()
    ref = repository.find("packages")
    if ref is None or clobber:
        put_outputs(repository, {}, {"packages": packages}, backup=backup and clobber)
        return
    stored: Packages = repository.butler.get(ref)
    changed = packages.difference(stored)
    if changed:
        text = "; ".join(f"{name}: {old} stored, {new} now" for name, (new, old) in sorted(changed.items()))
        raise VersionMismatchError(
            f"Version mismatch in {repository.root} ({text}); "
            "consider using --clobber-versions or --no-versions"
        )
    if packages.extra(stored):
        stored.update(packages)
        put_outputs(repository, {}, {"packages": stored})


def _find_packages() -> Packages:
    """Return the versions in use: of Python, of what is imported, and of what conda or EUPS has set up."""
    logger = logging.getLogger("lsst.utils.packages")
    level = logger.level
    logger.setLevel(logging.ERROR)  # most people do not have EUPS
    try:
        return Packages(_find_imported() | getCondaPackages() | getEnvironmentPackages())
    finally:
        logger.setLevel(level)


def _find_imported() -> dict[str, str]:
    """Return the versions of imported packages, by the names that `Packages.fromSystem` gives them.

    That looks for every file of every installed package, which takes half a second.
    """
    versions = {"python": sys.version}
    for name, module in sorted(sys.modules.items()):
        top, *below = name.split(".")
        if name.startswith("_") or "._" in name or top in sys.stdlib_module_names:
            continue
        # Of a namespace each part has a version, what lies below it has none of its own.
        if below and (top != "lsst" or any(name.startswith(f"{known}.") for known in versions)):
            continue
        version: object = None
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            # Of its own dictionary: to ask a module that is loaded when it is first used would load it.
            version = vars(module).get("__version__")
        if isinstance(version, str):
            versions[name] = version
    return {
        name.removeprefix("lsst.").replace(".", "_") if name.startswith("lsst.") else name: version
        for name, version in versions.items()
    }


def _compare_configs(stored: Config, config: Config) -> list[str]:
    """Return one line for each difference, none if they agree."""
    if type(stored) is not type(config):
        return [f"stored is a {type(stored).__name__}, this run uses a {type(config).__name__}"]
    lines: list[str] = []
    equal = stored.compare(config, shortcut=False, output=lines.append)
    return [] if equal else [line.strip() for line in lines] or ["they differ"]
