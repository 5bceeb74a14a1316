"""What can go wrong with the data, as the pipe_base framework wants to be told.

Three outcomes are told apart. There was nothing to do: `lsst.pipe.base.NoWorkFound`.
An algorithm could not do its work on these data: a subclass of
`ImageDifferenceError` with the numbers in ``metadata``. Anything else is a bug.
"""

from __future__ import annotations

__all__ = (
    "BadSubtractionError",
    "ImageDifferenceError",
    "InsufficientKernelSourcesError",
    "NoKernelCandidatesError",
    "RegistrationFailedError",
    "TooManySourcesError",
    "UnsuitableTemplateError",
    "UnusableExposureError",
)

from typing import Any

from lsst.pipe.base import AlgorithmError, Struct


class ImageDifferenceError(AlgorithmError):
    """An algorithm could not do its work on the data it was given.

    Parameters
    ----------
    message : `str`
        What was wrong, where, and how to mend it.
    **numbers : `str`, `int`, `float`, `bool` or `list`
        The values that decided; kept as ``metadata``.
    """

    def __init__(self, message: str, **numbers: Any) -> None:
        super().__init__(message)
        self.numbers = numbers

    @property
    def metadata(self) -> dict[str, Any]:
        """The values that decided (`dict`)."""
        return dict(self.numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would drop the keyword arguments on the way out of a worker process.
        return _rebuild, (type(self), str(self), self.numbers)


def _rebuild(
    error_type: type[ImageDifferenceError], message: str, numbers: dict[str, Any]
) -> ImageDifferenceError:
    error: ImageDifferenceError = error_type.__new__(error_type)  # type: ignore[assignment]
    ImageDifferenceError.__init__(error, message, **numbers)
    if isinstance(error, BadSubtractionError):
        error.partial_outputs = None
    return error


class UnusableExposureError(ImageDifferenceError):
    """The science or the template exposure cannot be used as it is."""


class UnsuitableTemplateError(ImageDifferenceError):
    """The template cannot serve for this science exposure."""


class TooManySourcesError(ImageDifferenceError):
    """There are more sources than identifiers."""


class RegistrationFailedError(ImageDifferenceError):
    """The stars do not tell how the template lies to the science exposure."""


class InsufficientKernelSourcesError(ImageDifferenceError):
    """Fewer stars than the matching kernel needs.

    Parameters
    ----------
    n_sources, n_required : `int`
        Number of stars left, and the least number that will do.
    advice : `str`, optional
        A further sentence.
    """

    def __init__(self, n_sources: int, n_required: int, advice: str = "") -> None:
        message = (
            f"Too few stars to determine the matching kernel: {n_sources} usable, {n_required} required. "
            f"{advice or 'Look for masks that cover the stars, or lower the required number.'}"
        )
        super().__init__(message, nSources=n_sources, nRequired=n_required)


class NoKernelCandidatesError(ImageDifferenceError):
    """No star survived the fits of the matching kernel."""


class BadSubtractionError(ImageDifferenceError):
    """Too much of the stars is left in the difference.

    Parameters
    ----------
    message : `str`
        What is wrong.
    **numbers
        The values that decided.

    Attributes
    ----------
    partial_outputs : `lsst.pipe.base.Struct` or `None`
        All that was made, for whoever wants to keep it. It does not go to another process.
    """

    def __init__(self, message: str, **numbers: Any) -> None:
        super().__init__(message, **numbers)
        self.partial_outputs: Struct | None = None
