"""Values of annotations, read as the many tools mean that write COCO's format.

Tools write numbers as text, flags as text or null, ids of several types, and names that are
numbers. Every reader of annotations takes their values from here.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_TRUE = {"true", "yes", "y", "t"}
_FALSE = {"false", "no", "n", "f", "none", "null", ""}
_MAX_EDGE = 2**31 - 1  # of an image, px, in every format that states it
MAX_COORDINATE = 2.0**32
"""A larger one is no coordinate of an image, in px or not, and its products may be infinite."""


def number_of(value: Any) -> float | None:
    """A number, or a text that is one; None for anything else, such as true or null.

    It may be NaN or infinite.
    """
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | float | str | np.integer | np.floating):
        try:
            return float(value)
        except (ValueError, OverflowError):
            return None
    return None


def flag_of(value: Any) -> bool | None:
    """A flag: 0 or 1, false or true, null for false, or a text that is one of these.

    None if it is none of them.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and (text := value.strip().casefold()) in _TRUE | _FALSE:
        return text in _TRUE
    number = number_of(value)
    return None if number is None or math.isnan(number) else number != 0


def is_unstated(value: Any) -> bool:
    """Whether an edge of an image is not stated: null, an empty text, or 0."""
    return value is None or (isinstance(value, str) and not value.strip()) or number_of(value) == 0


def edge_of(value: Any) -> int | None:
    """The width or height of an image in px; None if it is no positive integer.

    Larger ones than any image has (2^31 and more) are none, as products of them may be infinite.
    """
    number = number_of(value)
    if number is None or not number.is_integer() or not 1 <= number <= _MAX_EDGE:
        return None
    return int(number)


def id_of(value: Any) -> int | str:
    """An id in the form by which ids are compared: 7, "7" and 7.0 are the same."""
    if type(value) is int:  # nearly all; a data set has millions
        return value
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return int(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    text = value if isinstance(value, str) else repr(value)
    digits = text.strip().removeprefix("-")
    # The least form alone, so that "007" and 7 are two ids; the limit is Python's.
    if digits.isascii() and digits.isdigit() and len(digits) < 4000 and str(int(text)) == text:
        return int(text)
    return text


def order_of_id(identity: int | str) -> tuple[bool, int | str]:
    """A key that sorts ids of both types: numbers first."""
    return isinstance(identity, str), identity


def name_of_category(value: Any) -> str:
    """The name of a category as text: numbers and flags as json spells them; "" for none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""


def four_numbers(box: Any) -> tuple[float, float, float, float] | None:
    """The four numbers of a box, which may be NaN or infinite; None if it has not four."""
    if isinstance(box, str | bytes) or not isinstance(box, Sequence | np.ndarray) or len(box) != 4:
        return None
    first, second, third, fourth = box
    if type(first) is type(second) is type(third) is type(fourth) is float:  # nearly all
        return first, second, third, fourth
    first, second, third, fourth = map(number_of, box)
    if first is None or second is None or third is None or fourth is None:
        return None
    return first, second, third, fourth


def four_finite_numbers(box: Any) -> tuple[float, float, float, float] | None:
    """The four numbers of a box; None if it has not four, or one is NaN, infinite or huge."""
    numbers = four_numbers(box)
    return numbers if numbers is not None and are_coordinates(numbers) else None


def are_coordinates(box: Sequence[float]) -> bool:
    """Whether the numbers of a box can be coordinates: neither NaN nor beyond `MAX_COORDINATE`."""
    return all(abs(number) <= MAX_COORDINATE for number in box)


def scaled(
    box: tuple[float, float, float, float], width: float, height: float
) -> tuple[float, float, float, float]:
    """A box in px of one in fractions of an image, both XYWH."""
    return box[0] * width, box[1] * height, box[2] * width, box[3] * height
