"""Json of any origin."""

import json
from itertools import accumulate
from typing import Any

MAX_DEPTH = 100
"""Levels of lists and objects. Python gives up at some 1,000 where it happens to be, so that what
could be read might not be compared, printed or written."""

_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_OTHERS = bytes(byte for byte in range(256) if byte not in _STEPS)


def parse_json(text: str | bytes) -> Any:
    """The value of a json text; as ``json.loads``, for texts that somebody else wrote.

    Raises:
        ValueError: the text is not json, or is nested more than `MAX_DEPTH` levels deep.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    # Brackets are counted quickly, but some may be in strings.
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    steps = map(_STEPS.__getitem__, content.translate(None, _OTHERS))
    if max(accumulate(steps), default=0) > MAX_DEPTH and _is_deep(value):
        raise _too_deep()
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        nodes = [node for node in level if isinstance(node, dict | list)]
        level = [
            inner for node in nodes for inner in (node.values() if isinstance(node, dict) else node)
        ]
        if not nodes:
            return False
    return True


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
