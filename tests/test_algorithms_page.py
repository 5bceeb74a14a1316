"""The page on the algorithms names fields that there are, with their defaults."""

import re

import pytest
from conftest import ROOT

from lsst.twinkles.diffim.tasks.image_difference import ImageDifferenceConfig
from lsst.twinkles.diffim.tasks.make_coadd import MakeCoaddTask

PAGE = (ROOT / "doc" / "algorithms.md").read_text()
# Names of what tasks return and of columns.
RESULTS = {
    "dipoleAngle",
    "dipoleLength",
    "dipoleMeanFlux",
    "dipoleMoment",
    "errorScale",
    "astrometricScatter",
    "registrationOffset",
    "registrationOffsetMax",
    "apertureFlux",
    "bestSeeing",
    "bestSeeingQuantile",
    "centroid_flag",
    "convolvedTemplate",
    "diffimLimitingMagnitude",
    "dipoleFluxDiff",
    "excessVariance",
    "forcedFluxes",
    "isSplit",
    "matchedTemplate",
    "pixelFlags",
    "psfMatchingKernel",
    "raErr",
    "residualFootprintRatioMean",
    "residualFootprintRatioStdev",
    "scoreNoise",
    "skyFluxPullMean",
    "skyFluxPullStdev",
    "whitened",
}
NAMED_VALUES = {"convolveTemplate", "convolveScience"}


def defaults():
    """All fields of all stages by name."""
    config = ImageDifferenceConfig()
    parts = [config, config.getTemplate.value, config.getTemplate.value.warp.value, config.subtract.value]
    parts += [config.selectTemplate[name] for name in ("explicit", "psf")]
    coadd = MakeCoaddTask.ConfigClass()
    parts += [coadd, coadd.loadInput.value]
    parts += [config.subtract.value.kernel[name] for name in ("zogy", "AL")]
    parts += [
        getattr(config, name).value
        for name in (
            *(
                "register",
                "decorrelate",
                "finalWhitening",
                "scaleVariance",
                "detection",
                "deblend",
                "measurement",
            ),
            *("cosmicray", "maskStreaks", "subtractBackground", "skySources", "assess", "reliability"),
        )
    ]
    parts += [config.measurement.value.plugins[name] for name in ("dipole", "trail", "glint", "apertureFlux")]
    return {name: getattr(part, name) for part in parts for name in part._fields}


DEFAULTS = defaults()


def test_fields_that_are_named_are_there():
    named = {n for n in re.findall(r"`([a-z]+[A-Z]\w*)`", PAGE) if not n.startswith("deepDiff_")}
    assert len(named) > 25
    assert named - set(DEFAULTS) - RESULTS - NAMED_VALUES == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gridTolerance", 0.001), ("warpingKernelName", "lanczos3"), ("interpLength", 16),
        ("significantWeight", 0.01), ("backgroundCell", 64), ("spatialBgOrder", 2),
        ("detectionThreshold", 15.0), ("nStarPerCell", 5), ("nStarSmallImage", 50), ("levelSize", 65),
        ("sizeCellX", 128), ("modelError", 0.005),
        ("psfPriorStrengths", [100.0, 0.0, 1000.0]), ("spatialKernelOrderMax", 3),
        ("candidateChi2Max", 4.0), ("candidateFluxMax", 4.0), ("alardGaussBeta", 2.0),
        ("alardDegGauss", [4, 2, 2]), ("kernelSizeMin", 21), ("kernelSizeMax", 35),
        ("correctionSigmaFwhm", [0.2, 0.4, 0.8]), ("correctionDegrees", [2, 1, 0]),
        ("correctionRidge", 100.0), ("kernelMaskLevel", 0.1), ("saturationLimit", 10.0),
        ("rimLimit", 3.0),
        ("matchRadius", 1.0), ("doAstrometricNoise", True),
        ("minPsfCoverage", 0.5), ("scoreNoiseTolerance", 0.05),
        ("thresholdValue", 5.0), ("peakRadius", 2), ("growFootprint", 2), ("fitRadiusFwhm", 2.5),
        ("psfFwhmUnit", "arcsec"), ("minOverlap", 0.9), ("method", "proper"), ("outlierThreshold", 5.0),
        ("outlierBrightnessError", 0.02), ("outlierPixelThreshold", 6.0), ("maxFractionEpochs", 0.2),
        ("lostWeightLimit", 0.1),
        ("maxCentroidShiftFwhm", 1.0), ("blendLinkFwhm", 2.0), ("maxBlendSize", 12), ("minChi2Gain", 25.0),
        ("minSeparationFwhm", 0.4), ("maxSeparationFwhm", 1.5), ("minFluxRatio", 0.1), ("relWeight", 1.0),
        ("minSn", 5.0), ("maxFluxRatio", 0.65), ("maxSeparation", 0.3), ("radius", 12.0),
        ("minPoints", 5), ("maxDeviation", 2.0), ("maxChance", 1e-3),
        ("mode", "convolveTemplate"),
        ("minSigma", 6.0), ("cond3_fac", 2.5), ("cond3_fac2", 0.6), ("nCrPixelMax", 10000),
        ("streakBinFactor", 4), ("maxStreakWidth", 100.0), ("minLength", 128), ("binSize", 128),
        ("minStarSignalToNoise", 50.0), ("badSubtractionRatioThreshold", 0.2),
        ("badSubtractionVariationThreshold", 0.4), ("sourceRadius", 8.0),
    ],
)  # fmt: skip
def test_defaults_are_those_that_the_page_gives(name, value):
    # A changed default: change the page too.
    found = DEFAULTS[name]
    assert (list(found) if isinstance(value, list) else found) == value


def test_methods_are_the_defaults_that_the_page_gives():
    from lsst.twinkles.diffim.tasks.twinkles_image_difference import TwinklesImageDifferenceConfig

    assert ImageDifferenceConfig().subtract.value.kernel.name == "AL"
    assert TwinklesImageDifferenceConfig().subtract.value.kernel.name == "zogy"
    assert ImageDifferenceConfig().selectTemplate.name == "explicit"
    assert TwinklesImageDifferenceConfig().selectTemplate.name == "psf"
