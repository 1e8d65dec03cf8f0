"""The exception for mistakes that a user can fix, and the sentence for a missing package."""

import reprlib
from typing import Any

_LENGTH = 120  # characters of a value in a sentence
MISSING_DETECTRON2 = (
    "Detectron2 is not installed, and the stand-in that comes with detclip2 is missing: install "
    "detclip2 again, or the real Detectron2 "
    "(`pip install git+https://github.com/facebookresearch/detectron2`)"
)


class UserError(ValueError):
    """A sentence that tells the user what to do: which file, which key, what was expected.

    The command line prints it without a traceback and exits with code 2.
    """


def missing_package(error: ModuleNotFoundError) -> str:
    """The sentence for a package that is not installed; empty if the error has another cause.

    A module missing inside an installed package is a fault of that package.
    """
    name = error.name or ""
    if name == "detectron2":
        return MISSING_DETECTRON2
    if not name or "." in name or name == "detclip2":
        return ""
    return (
        f"the Python package {name!r} is not installed; install detclip2 with all that it needs "
        "(`pip install -e .` in its folder)"
    )


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 3, 8, 80, 80


def shown(value: Any) -> str:
    """A value of a file in a sentence: as Python writes it, and shortened if it is long."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}..."
