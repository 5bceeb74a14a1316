"""Data ids as they are written on a Gen2 command line.

One ``--id`` option takes words ``KEY=V1^V2^...``. A value that is exactly
``FIRST..LAST`` or ``FIRST..LAST:STRIDE`` with whole numbers stands for an
inclusive range. The keys of one option combine as a cross product, the last
key varying fastest; several options are simply put one after the other. A
comma separates nothing: ``sensor=1,2`` is the one value ``1,2``.

This module knows no repository: values stay text until someone who knows the
type of each key casts them.
"""

from __future__ import annotations

__all__ = ("DataIdSyntaxError", "expand_value", "parse_id_words")

import itertools
import re
from collections.abc import Sequence

_RANGE = re.compile(r"(\d+)\.\.(\d+)(?::(\d+))?", re.ASCII)


class DataIdSyntaxError(ValueError):
    """The words of an ``--id`` option do not follow the grammar."""


def parse_id_words(words: Sequence[str]) -> list[dict[str, str]]:
    """Expand the words of one ``--id`` option into data ids.

    Parameters
    ----------
    words : `~collections.abc.Sequence` [`str`]
        Words such as ``visit=230^250`` and ``ccd=1..3``. No word at all
        selects everything, as one data id without constraints.

    Returns
    -------
    data_ids : `list` [`dict` [`str`, `str`]]
        The cross product, the last key varying fastest.

    Raises
    ------
    DataIdSyntaxError
        If a word is not ``KEY=VALUE``, a key comes twice, a value is empty,
        or a range holds nothing.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise DataIdSyntaxError(f"{word!r} must be in form key=value, with ^ between several values")
        if key in values:
            raise DataIdSyntaxError(
                f"{key} appears multiple times in one ID argument: {word}; write {key}=V1^V2 instead"
            )
        values[key] = [value for item in text.split("^") for value in expand_value(item, word=word)]
    return [
        dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())
    ]


def expand_value(item: str, *, word: str) -> list[str]:
    """Expand one item between two ``^`` into its values.

    Parameters
    ----------
    item : `str`
        A literal value or an inclusive range.
    word : `str`
        The word it was found in, for the error message.

    Returns
    -------
    values : `list` [`str`]
        At least one value.

    Raises
    ------
    DataIdSyntaxError
        If the item is empty or is a range without members.
    """
    if not item:
        raise DataIdSyntaxError(
            f"{word!r} has an empty value; write key=value, with ^ between several values"
        )
    match = _RANGE.fullmatch(item)
    if match is None:
        return [item]
    first, last, stride = int(match[1]), int(match[2]), int(match[3] or 1)
    if stride == 0:
        raise DataIdSyntaxError(f"range {item} in {word!r} has stride 0; a stride is at least 1")
    if last < first:
        raise DataIdSyntaxError(f"range {item} in {word!r} is empty; did you mean {last}..{first}?")
    return [str(value) for value in range(first, last + 1, stride)]
