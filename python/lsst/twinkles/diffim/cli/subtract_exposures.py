"""The command ``subtractExposures.py``: subtract two files, without a repository."""

from __future__ import annotations

__all__ = ("build_parser", "main")

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .allocation import import_quickly
from .gen2_parser import TRUST_HELP, ConfigOverride

if TYPE_CHECKING:
    from lsst.images import VisitImage
    from lsst.pipe.base import Struct

    from ..tasks.image_difference import ImageDifferenceConfig, ImageDifferenceTask

_LOG = logging.getLogger("lsst.twinkles.diffim.subtractExposures")
_PROG = "subtractExposures.py"
# Exposures whose stars agree within this many pixels are not resampled.
_ALIGNED = 0.2

_EPILOG = """\
Files are those of lsst.images, exposures that the LSST stack wrote, or plain FITS: an image, and whatever
else there is of MASK, VARIANCE, PSF (or PSFGRID and PSFPOS) and a WCS. What
a file lacks is made from what it has, and said. Two files of which one has no WCS are registered by their
stars; if these do not tell, and the files are of the same size, they are taken to be aligned pixel by pixel.

DIR gets difference.fits (lsst.images.DifferenceImage.read opens it, and so do astropy and DS9; in the pixel
unit of SCIENCE), matchedTemplate.fits, diaSources.parquet, difference.png, config.py and summary.json. It
appears when all of them are there, or not at all. The configuration is that of imageDifference.py. The exit
status is 0 if all went well, 1 if the subtraction failed, 2 for a wrong command line, 130 after an interrupt.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line (`argparse.ArgumentParser`)."""
    parser = argparse.ArgumentParser(
        prog=_PROG,
        usage=f"{_PROG} SCIENCE TEMPLATE --output DIR [options]",
        description="Subtract one calibrated exposure from another: PSF-matched difference, noise whitened, "
        "with a catalogue of what changed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("science", metavar="SCIENCE", type=Path, help="FITS file of the science exposure")
    parser.add_argument("template", metavar="TEMPLATE", type=Path, help="FITS file of the template")
    parser.add_argument("--output", metavar="DIR", type=Path, help="directory of the results; must not exist")
    parser.add_argument("--clobber", action="store_true", help="replace the results of an earlier run in DIR")
    parser.add_argument(
        "--layout",
        choices=("images", "afw"),
        default="images",
        help="layout of difference.fits and matchedTemplate.fits: that of lsst.images, or that of lsst.afw, "
        "which ExposureF.readFits of the LSST stack opens (images)",
    )
    _add_config_options(parser)
    _add_reading_options(parser)
    parser.add_argument(
        "-L",
        "--loglevel",
        default="info",
        choices=("debug", "info", "warn", "error"),
        help="what to log (info)",
    )
    return parser


def _add_config_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("configuration, as of imageDifference.py")
    group.add_argument(
        "-c",
        "--config",
        dest="overrides",
        nargs="+",
        action=_OverrideAction,
        default=[],
        metavar="NAME=VALUE",
        help="override fields, e.g. -c detection.thresholdValue=5.5",
    )
    group.add_argument(
        "-C",
        "--configfile",
        "--config-file",
        dest="overrides",
        nargs="+",
        action=_OverrideAction,
        metavar="FILE",
        help="Python files that override the variable config",
    )
    group.add_argument("--trust-config", action="store_true", help=TRUST_HELP)
    group.add_argument("--show", choices=("config",), help="print the configuration and quit")


def _add_reading_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "what plain FITS files do not say, or say wrong (one value, or one for SCIENCE and one for TEMPLATE)"
    )
    for name, text in (
        ("gain", "electrons per pixel unit"),
        ("read-noise", "electrons"),
        ("saturation", "level in pixel units"),
        ("zero-point", "AB magnitude of one pixel unit"),
    ):
        group.add_argument(f"--{name}", nargs="+", type=float, action=_PairAction, metavar="X", help=text)
    group.add_argument(
        "--hdu", nargs="+", type=_hdu, action=_PairAction, metavar="HDU", help="number or name of the image"
    )
    group.add_argument(
        "--band", nargs="+", action=_PairAction, metavar="BAND", help="short name of the filter"
    )
    _add_psf_option(group, nargs="+", action=_PairAction)
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--aligned", action="store_true", help="ignore the WCS of TEMPLATE: it lies on the pixels of SCIENCE"
    )
    how.add_argument(
        "--register", action="store_true", help="ignore the WCS of TEMPLATE: find its place by matching stars"
    )


def _add_psf_option(group: Any, **more: Any) -> None:
    group.add_argument(
        "--psf",
        choices=("file", "stars"),
        help="where the PSF comes from: from the file where it has one, or always from the stars (file)",
        **more,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    argv : sequence of `str`, optional
        Arguments; those of the process by default.

    Returns
    -------
    status : `int`
        0 if all went well, 1 if the subtraction failed, 2 for a wrong command
        line or configuration, 130 after an interrupt.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.output is None and args.show is None:
        parser.error("no output directory specified; give one with --output DIR")
    level = "WARNING" if args.loglevel == "warn" else args.loglevel.upper()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("lsst").setLevel(level)
    try:
        return _configure_and_run(args)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130)


def _configure_and_run(args: argparse.Namespace) -> int:
    """Make the configuration, then do what was asked for."""
    with import_quickly():
        from lsst.pex.config import FieldValidationError

        from .override_files import ConfigOverrideError

        for name in ("lsst.images", "lsst.twinkles.diffim.tasks.twinkles_image_difference"):
            importlib.import_module(name)
    try:
        config = _make_config(args.overrides, trust=args.trust_config)
    except (ConfigOverrideError, FieldValidationError) as error:
        return _fail(str(error), 2)
    if args.show is not None:
        config.saveToStream(sys.stdout)
        return 0
    from lsst.pipe.base import AlgorithmError, NoWorkFound

    from ..adapters.fits_files import UnreadableExposureError
    from ..adapters.psfs import InvalidPsfError

    try:
        _subtract(args, config)
    except (UnreadableExposureError, InvalidPsfError, AlgorithmError, NoWorkFound, _ResultsError) as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"cannot write {args.output}: {error.strerror or error}; nothing of it was kept", 1)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"{_PROG}: error: {message}", file=sys.stderr)
    return status


def _make_config(overrides: Sequence[ConfigOverride], *, trust: bool) -> ImageDifferenceConfig:
    from ..tasks.twinkles_image_difference import TwinklesImageDifferenceTask
    from .override_files import apply_overrides

    config = TwinklesImageDifferenceTask.ConfigClass()
    apply_overrides(config, overrides, trust=trust)
    config.validate()
    return config


def _subtract(args: argparse.Namespace, config: ImageDifferenceConfig) -> None:
    """Read, subtract, write."""
    from ..tasks.errors import BadSubtractionError
    from ..tasks.twinkles_image_difference import TwinklesImageDifferenceTask
    from .allocation import prepare_process
    from .compile_ahead import compile_ahead
    from .result_directory import ResultDirectory

    prepare_process()
    failure: BadSubtractionError | None = None
    results = ResultDirectory(args.output, clobber=args.clobber, inputs=(args.science, args.template))
    with compile_ahead(), results as directory:
        science, template = _read_pair(args)
        task = TwinklesImageDifferenceTask(config=config)
        try:
            result = task.run(science, template, idFactory=_make_id_factory(science))
        except BadSubtractionError as error:
            if error.partial_outputs is None:
                raise
            failure, result = error, error.partial_outputs
        _write_results(directory.path, args, science, template, task, result)
        directory.commit()
    print(_closing_line(args, result))
    if failure is not None:
        raise failure


def _make_id_factory(science: VisitImage) -> Callable[[], int] | None:
    """Return what numbers the sources of a visit; `None` where the exposure does not say which it is."""
    from ..adapters.metadata import visit_number
    from ..pipeline.ids import DiaSourceIdFactory

    visit = visit_number(science)
    if visit is None:
        return None
    try:
        return DiaSourceIdFactory(visit, science.obs_info.detector_num or 0)
    except ValueError as error:
        _LOG.warning("Sources are numbered from 1: %s", error)
        return None


def _read_pair(args: argparse.Namespace) -> tuple[VisitImage, VisitImage]:
    """Read both exposures; where a WCS is missing they are registered by their stars."""
    from ..adapters.read_exposure import has_sky
    from ..adapters.registration import RegistrationError

    science = _read(args.science, **_reading_options(args, 0))
    template = _read(args.template, sky_projection=science.sky_projection, **_reading_options(args, 1))
    if has_sky(science) and has_sky(template) and not (args.aligned or args.register):
        return science, template
    if not args.aligned:
        try:
            return _register(science, template, must=args.register)
        except RegistrationError as error:
            if args.register or science.bbox.shape != template.bbox.shape:
                raise _ResultsError(
                    f"{args.science} ({_size(science)} pixels) and {args.template} ({_size(template)}) "
                    f"cannot be aligned: {error}. Look whether they show the same sky, add a WCS to both "
                    "(astrometry.net, scamp), or give --aligned if they are aligned pixel by pixel."
                ) from error
            _LOG.warning("The stars do not tell how the exposures lie to each other: %s.", error)
    if science.bbox.shape != template.bbox.shape:
        raise _ResultsError(
            f"{args.science} ({_size(science)} pixels) and {args.template} ({_size(template)}) are not of "
            "the same size, so that they cannot be --aligned."
        )
    return _align(science, template)


def _register(science: VisitImage, template: VisitImage, *, must: bool) -> tuple[VisitImage, VisitImage]:
    """Give the exposure without a WCS, or else the template, the coordinates that its stars tell."""
    from ..adapters.read_exposure import has_sky
    from ..adapters.registration import register_exposure

    if has_sky(template) and not has_sky(science) and not must:
        found = register_exposure(science, template)
        pair = found.exposure, template
    else:
        found = register_exposure(template, science)
        pair = science, found.exposure
    if science.bbox.shape == template.bbox.shape:
        shift = found.registration.largest_shift(science.bbox.shape)
        if shift < _ALIGNED:  # the matching kernel takes care of it better than a resampling would
            return _align(science, template, f"aligned to within {shift:.2f} pixels: {found.note}")
    _LOG.warning("The exposures are %s.", found.note)
    return pair


def _align(science: VisitImage, template: VisitImage, reason: str = "") -> tuple[VisitImage, VisitImage]:
    """Put two exposures of the same size on the same pixels; it is noted in the one that is moved."""
    from ..adapters.read_exposure import has_sky, with_sky_projection

    note = "taken to be aligned pixel by pixel" + (f" ({reason})" if reason else "")
    _LOG.warning("The two exposures are %s.", note)
    if has_sky(science):
        template = moved = with_sky_projection(template, science.sky_projection)
    else:
        science = moved = with_sky_projection(science, template.sky_projection)
    moved.metadata["registered"] = note
    return science, template


def _read(path: Path, **options: Any) -> VisitImage:
    """Read an exposure; what is said of its PSF names the file."""
    from ..adapters.psfs import InvalidPsfError
    from ..adapters.read_exposure import read_exposure

    try:
        return read_exposure(path, **options)
    except InvalidPsfError as error:
        if str(path) in str(error):
            raise
        raise InvalidPsfError(f"{path}: {error}") from error


def _reading_options(args: argparse.Namespace, role: int) -> dict[str, Any]:
    """Return the keywords of `read_exposure` for the science exposure (0) or the template (1)."""
    names = ("gain", "read_noise", "saturation", "zero_point", "hdu", "band", "psf")
    return {name: pair[role] for name in names if (pair := getattr(args, name)) is not None}


def _write_results(
    directory: Path,
    args: argparse.Namespace,
    science: VisitImage,
    template: VisitImage,
    task: ImageDifferenceTask,
    result: Struct,
) -> None:
    """Write every file of the results."""
    from ..adapters.afw.write import write_afw_exposure
    from ..algorithms.threads import get_num_threads
    from ..report.figures import plot_difference
    from .result_directory import write_summary, write_table

    write = write_afw_exposure if args.layout == "afw" else _write_images
    images = result.subtractedExposure, result.matchedExposure
    with ThreadPoolExecutor(min(2, get_num_threads())) as pool:
        list(pool.map(write, images, (directory / "difference.fits", directory / "matchedTemplate.fits")))
    task.config.save(str(directory / "config.py"))
    sources = result.diaSources
    if sources is not None:
        write_table(sources, directory / "diaSources.parquet")
    plot_difference(
        science,
        result.matchedExposure,
        result.subtractedExposure,
        _NO_SOURCES if sources is None else sources,
        directory / "difference.png",
    )
    write_summary(
        directory / "summary.json",
        files={"science": args.science, "template": args.template},
        exposures={"science": science, "template": template},
        reading={"science": _reading_options(args, 0), "template": _reading_options(args, 1)},
        difference=result.subtractedExposure,
        sources=sources,
        metadata=task.getFullMetadata().to_dict(),
    )


def _write_images(exposure: VisitImage, path: Path) -> None:
    from ..adapters.compression import COMPRESSIONS, DEFAULT_COMPRESSION, compress_mask

    options = {"mask": compress_mask(exposure), **COMPRESSIONS[DEFAULT_COMPRESSION]}
    exposure.write(str(path), compression_options=options)


_NO_SOURCES: dict[str, list] = {"x": [], "y": [], "isNegative": []}


def _closing_line(args: argparse.Namespace, result: Struct) -> str:
    sources = result.diaSources
    if sources is None:
        return f"Wrote {args.output}/difference.fits; no detection was asked for."
    n_negative = int(sources["isNegative"].sum())
    return (
        f"Wrote {args.output}/difference.fits; {len(sources)} sources: {len(sources) - n_negative} brighter, "
        f"{n_negative} fainter than in the template."
    )


class _ResultsError(Exception):
    """The exposures do not go together."""


def _size(exposure: VisitImage) -> str:
    return f"{exposure.bbox.x.size} x {exposure.bbox.y.size}"


def _hdu(text: str) -> int | str:
    return int(text) if text.isdigit() else text


class _OverrideAction(argparse.Action):
    """Collects values and files in the order in which they stand."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        from .override_files import find_override_file

        found = list(getattr(namespace, self.dest))
        for word in values:
            if option_string is not None and option_string in ("-C", "--configfile", "--config-file"):
                if (file := find_override_file(word)) is None:
                    parser.error(f"cannot find configuration file {word!r}")
                else:
                    found.append(ConfigOverride("file", file))
                continue
            name, equals, value = word.partition("=")
            if not name or not equals:
                parser.error(f"{option_string} value {word!r} must be in form name=value")
            found.append(ConfigOverride("value", name, value))
        setattr(namespace, self.dest, found)


class _PairAction(argparse.Action):
    """One value for both exposures, or one for each."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if len(values) > 2:
            parser.error(f"{option_string} takes one value, or two (SCIENCE and TEMPLATE); got {len(values)}")
        setattr(namespace, self.dest, (values[0], values[-1]))


if __name__ == "__main__":
    sys.exit(main())
