"""Choice of stars from a catalogue by its columns.

Fields, meanings and defaults are those of ``ScienceSourceSelectorTask`` of lsst.meas.algorithms, so that
override files load and either task can stand in the other's place. Catalogues may be `astropy.table.Table`,
structured arrays or `lsst.afw.table.SourceCatalog`.
"""

from __future__ import annotations

__all__ = ("ScienceSourceSelectorConfig", "ScienceSourceSelectorTask")

from typing import Any

import numpy as np

from lsst.pex.config import Config, ConfigField, Field, ListField
from lsst.pipe.base import Struct, Task


class LimitConfig(Config):
    """Open interval of values; a limit that is not set does not limit."""

    minimum = Field[float](doc="Values have to be greater.", optional=True)
    maximum = Field[float](doc="Values have to be less.", optional=True)

    def within(self, values: np.ndarray) -> np.ndarray:
        """Tell which values lie within the limits; NaN does not if there is a limit."""
        selected = np.ones(len(values), dtype=bool)
        with np.errstate(invalid="ignore"):
            if self.minimum is not None:
                selected &= values > self.minimum
            if self.maximum is not None:
                selected &= values < self.maximum
        return selected


class FluxLimitConfig(LimitConfig):
    """Limits of a flux."""

    fluxField = Field[str](doc="Column.", default="slot_CalibFlux_instFlux")


class FlagsConfig(Config):
    """Flags that have to be set or not."""

    good = ListField[str](doc="Flags that have to be set.", default=[])
    bad = ListField[str](doc="Flags that must not be set.", default=[])


class UnresolvedConfig(LimitConfig):
    """Limits of a measure of extendedness."""

    name = Field[str](doc="Column.", default="base_ClassificationSizeExtendedness_value")

    def setDefaults(self) -> None:
        """Set the limit of stars."""
        super().setDefaults()
        self.maximum = 0.1


class SignalToNoiseConfig(LimitConfig):
    """Limits of a flux over its error."""

    fluxField = Field[str](doc="Column of the flux.", default="base_PsfFlux_instFlux")
    errField = Field[str](doc="Column of its error.", default="base_PsfFlux_instFluxErr")


class IsolatedConfig(Config):
    """Columns that tell of blends."""

    parentName = Field[str](doc="Column of the parent, 0 for none.", default="parent")
    nChildName = Field[str](doc="Column of the number of children.", default="deblend_nChild")


class FiniteCoordinateConfig(Config):
    """Columns of sky coordinates."""

    raColName = Field[str](doc="Column of the right ascension.", default="coord_ra")
    decColName = Field[str](doc="Column of the declination.", default="coord_dec")


class PrimaryConfig(Config):
    """Column that tells primary detections."""

    primaryColName = Field[str](doc="Column.", default="detect_isPrimary")


class CentroidErrorConfig(LimitConfig):
    """Limits of centroid errors."""

    centroidField = Field[str](doc="Start of the names of the centroid columns.", default="slot_Centroid")

    def setDefaults(self) -> None:
        """Set the largest error in pixels."""
        super().setDefaults()
        self.maximum = 3.0


class ScienceSourceSelectorConfig(Config):
    """Configuration of `ScienceSourceSelectorTask`."""

    doFluxLimit = Field[bool](doc="Limit fluxes?", default=False)
    doFlags = Field[bool](doc="Look at flags?", default=False)
    doUnresolved = Field[bool](doc="Take unresolved sources only?", default=False)
    doSignalToNoise = Field[bool](doc="Limit signal-to-noise ratios?", default=False)
    doIsolated = Field[bool](doc="Take isolated sources only?", default=False)
    doRequireFiniteRaDec = Field[bool](doc="Take sources with finite sky coordinates only?", default=False)
    doRequirePrimary = Field[bool](doc="Take primary detections only?", default=False)
    doSkySources = Field[bool](doc="Take sky sources as well?", default=False)
    doCentroidErrorLimit = Field[bool](doc="Limit centroid errors?", default=False)
    fluxLimit = ConfigField[FluxLimitConfig](doc="Limits of the flux.", dtype=FluxLimitConfig)
    flags = ConfigField[FlagsConfig](doc="Flags.", dtype=FlagsConfig)
    unresolved = ConfigField[UnresolvedConfig](doc="Limits of the extendedness.", dtype=UnresolvedConfig)
    signalToNoise = ConfigField[SignalToNoiseConfig](doc="Limits of the ratio.", dtype=SignalToNoiseConfig)
    isolated = ConfigField[IsolatedConfig](doc="Columns of blends.", dtype=IsolatedConfig)
    requireFiniteRaDec = ConfigField[FiniteCoordinateConfig](
        doc="Columns of coordinates.", dtype=FiniteCoordinateConfig
    )
    requirePrimary = ConfigField[PrimaryConfig](doc="Column of primary detections.", dtype=PrimaryConfig)
    skyFlag = ConfigField[FlagsConfig](doc="Flag of sky sources.", dtype=FlagsConfig)
    centroidErrorLimit = ConfigField[CentroidErrorConfig](
        doc="Limits of centroid errors.", dtype=CentroidErrorConfig
    )

    def setDefaults(self) -> None:
        """Set the flags that stars of a science exposure must not have."""
        super().setDefaults()
        self.flags.bad = [
            "base_PixelFlags_flag_edge",
            "base_PixelFlags_flag_nodata",
            "base_PixelFlags_flag_saturated",
            "base_PsfFlux_flag",
        ]
        self.skyFlag.good = ["sky_source"]


class ScienceSourceSelectorTask(Task):
    """Choose sources of a science exposure by flags, extendedness, signal-to-noise ratio and blending."""

    ConfigClass = ScienceSourceSelectorConfig
    _DefaultName = "sourceSelector"
    config: ScienceSourceSelectorConfig

    def selectSources(self, sourceCat: Any, matches: Any = None, exposure: Any = None) -> Struct:
        """Tell which sources of a catalogue meet the criteria.

        Parameters
        ----------
        sourceCat : `astropy.table.Table`, `numpy.ndarray` or `lsst.afw.table.SourceCatalog`
            Catalogue; not modified.
        matches, exposure : optional
            Not used; there for the signature of the stack's selectors.

        Returns
        -------
        result : `lsst.pipe.base.Struct`
            ``selected`` (`numpy.ndarray`, ``(N,)``, bool).

        Raises
        ------
        KeyError
            If the catalogue has not the column of a criterion.
        """
        config = self.config
        selected = np.ones(len(sourceCat), dtype=bool)
        criteria = (
            (config.doFluxLimit, self._within_flux),
            (config.doFlags, self._match_flags),
            (config.doUnresolved, self._is_unresolved),
            (config.doSignalToNoise, self._within_signal_to_noise),
            (config.doIsolated, self._is_isolated),
            (config.doRequireFiniteRaDec, self._has_finite_coordinates),
            (config.doRequirePrimary, self._is_primary),
        )
        for wanted, criterion in criteria:
            if wanted:
                selected &= criterion(sourceCat)
        if config.doSkySources:
            selected |= _match(sourceCat, config.skyFlag)
        if config.doCentroidErrorLimit:
            selected &= self._within_centroid_error(sourceCat)
        self.log.info("%d of %d sources meet the criteria.", selected.sum(), len(selected))
        return Struct(selected=selected)

    def _within_flux(self, catalog: Any) -> np.ndarray:
        limit = self.config.fluxLimit
        return ~_flag(catalog, limit.fluxField + "_flag") & limit.within(_column(catalog, limit.fluxField))

    def _match_flags(self, catalog: Any) -> np.ndarray:
        return _match(catalog, self.config.flags)

    def _is_unresolved(self, catalog: Any) -> np.ndarray:
        limit = self.config.unresolved
        return limit.within(_column(catalog, limit.name).astype(float))

    def _within_signal_to_noise(self, catalog: Any) -> np.ndarray:
        limit = self.config.signalToNoise
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = _column(catalog, limit.fluxField) / _column(catalog, limit.errField)
        return ~_flag(catalog, limit.fluxField + "_flag") & ~np.isnan(ratio) & limit.within(ratio)

    def _is_isolated(self, catalog: Any) -> np.ndarray:
        names = self.config.isolated
        return (_column(catalog, names.parentName) == 0) & (_column(catalog, names.nChildName) == 0)

    def _has_finite_coordinates(self, catalog: Any) -> np.ndarray:
        names = self.config.requireFiniteRaDec
        return np.isfinite(_column(catalog, names.raColName)) & np.isfinite(
            _column(catalog, names.decColName)
        )

    def _is_primary(self, catalog: Any) -> np.ndarray:
        return _column(catalog, self.config.requirePrimary.primaryColName).astype(bool)

    def _within_centroid_error(self, catalog: Any) -> np.ndarray:
        limit = self.config.centroidErrorLimit
        x, y = (_column(catalog, f"{limit.centroidField}_{axis}Err") for axis in "xy")
        return np.isfinite(x) & np.isfinite(y) & limit.within(x) & limit.within(y)


def _names(catalog: Any) -> Any:
    """Return what tells whether a catalogue has a column."""
    if hasattr(catalog, "schema"):
        return catalog.schema
    return catalog.colnames if hasattr(catalog, "colnames") else catalog.dtype.names


def _column(catalog: Any, name: str) -> np.ndarray:
    if name not in _names(catalog):
        raise KeyError(
            f"The catalogue has no column {name!r}; name another one, or switch the criterion off."
        )
    return np.asarray(catalog[name])


def _flag(catalog: Any, name: str) -> np.ndarray:
    """Return a flag, set nowhere if the catalogue does not have it."""
    if name not in _names(catalog):
        return np.zeros(len(catalog), dtype=bool)
    return np.asarray(catalog[name], dtype=bool)


def _match(catalog: Any, flags: FlagsConfig) -> np.ndarray:
    selected = np.ones(len(catalog), dtype=bool)
    for name in flags.good:
        selected &= _column(catalog, name).astype(bool)
    for name in flags.bad:
        selected &= ~_column(catalog, name).astype(bool)
    return selected
