"""Json of any origin."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value of a json text; as ``json.loads``, for texts that somebody else wrote.

    Raises:
        ValueError: the text is not json, or is nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
