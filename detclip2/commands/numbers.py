"""Types of numbers on the command line."""

import argparse
import math
from collections.abc import Callable
from typing import Any

SMALLEST, LARGEST = 32, 4096


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A finite number above 0, of a kind: int or float."""

    def parse(text: str) -> Any:
        value = kind(text)
        if not 0 < value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def named(kind: Callable[[str], Any]) -> Callable[[str], tuple[str, Any]]:
    """NAME=NUMBER, with a positive number of a kind: int or float."""
    number = positive(kind)

    def parse(text: str) -> tuple[str, Any]:
        name, _, value = text.partition("=")
        return name, number(value)

    return parse


def share(text: str) -> float:
    """A number from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def edge(text: str) -> int:
    """A length of an image's edge, px, with which detectors work."""
    value = int(text)
    if not SMALLEST <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text} is not between {SMALLEST} and {LARGEST} px")
    return value
