"""A grammar of damage: how files that are almost right differ from right ones.

A strategy draws a few damages of small integers, which is cheap, and applies them to a right file.
`trees` damages what json and yaml hold, `damaged_bytes` any file, and `json_files` both.
"""

import json
import math
import random
from collections.abc import Iterable
from typing import Any, NamedTuple

from hypothesis import strategies as st

NAN, INF = float("nan"), float("inf")
_PLACES, _OTHERS = 2**12, 2**8
DEEP = "@deep {}@"
"""A text that `json_text` replaces by lists in each other, as many as it says."""

VALUES = (
    None, True, False, 0, 1, 2, -1, 7.0, 0.5, 1.5, -0.0, 1e-320, NAN, INF, -INF, 1e308, -1e308,
    2**31, 2**63, -(2**63), 10**400,
    "", " ", "0", "1", "-1", "1.0", "1e400", "nan", "true", "no", "None", "a.png", "b.png", "red",
    "../a.png", "/etc/passwd", "a\\b.png", "C:\\a.png", ".", "a\x00b", "\ufeff", "\u202ea",
    "\ud800", "e\u0301", "\U0001f600", "{}", "${a}", "%s", "[/EN#1/x", "x" * 3000,
    [], {}, [[]], [None], [0], [0, 1], [0, 0, 0, 0], [0, 0, 4, 4], [NAN, 0, 1, 1],
    [0.1, 0.1, 0.5, 0.5], ["a"], [{}], {"id": 1}, {"size": [8, 8], "counts": [0, 64]},
    {"size": [8, 8], "counts": "x"}, {"a": {"b": [1]}},
    DEEP.format(90), DEEP.format(400), DEEP.format(900), DEEP.format(100_000),
)  # fmt: skip
"""What tools write by mistake in the place of a value."""


class Damage(NamedTuple):
    """One fault."""

    kind: str
    place: int
    """A number that chooses a node or a byte."""
    other: int
    """A number that chooses what is written."""


def _nodes(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    found, waiting = [], [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
    return found


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def _drop(node, key, value, others):
    del node[key]


def _write(node, key, value, others):
    node[key] = _copy(value)


def _null(node, key, value, others):
    node[key] = None


def _as_text(node, key, value, others):
    node[key] = str(node[key])


def _rename(node, key, value, others):
    if isinstance(node, dict):
        node[str(value)[:20]] = node.pop(key)
    else:
        node.reverse()


def _repeat(node, key, value, others):
    if isinstance(node, list):
        node.append(_copy(node[key]))
    else:
        node[f"{key}_"] = _copy(node[key])


def _graft(node, key, value, others):
    """Write the value of another node, such as the id of another entry."""
    there, other = others
    if there.__contains__(other) if isinstance(there, dict) else other < len(there):
        node[key] = _copy(there[other])


def _reorder(node, key, value, others):
    if isinstance(node, list):
        random.Random(str(key)).shuffle(node)
    else:
        for name in sorted(node, reverse=True):
            node[name] = node.pop(name)


def _wrap(node, key, value, others):
    node[key] = [node[key]]


def _negate(node, key, value, others):
    if isinstance(node[key], int | float):
        node[key] = -node[key]
    elif isinstance(node[key], str):
        node[key] = node[key].upper()


_OF_TREES = {
    "write": _write, "drop": _drop, "null": _null, "as text": _as_text, "rename": _rename,
    "repeat": _repeat, "graft": _graft, "reorder": _reorder, "wrap": _wrap, "negate": _negate,
}  # fmt: skip


def damage_tree(tree: Any, damages: list[Damage]) -> Any:
    """The tree, changed in place, with every damage; a list around it is part of the tree."""
    root = [tree]
    for damage in damages:
        nodes = _nodes(root)
        node, key = nodes[damage.place % len(nodes)]
        others = nodes[damage.other % len(nodes)]
        if node is not root or damage.kind in ("write", "null", "wrap"):
            value = VALUES[damage.other % len(VALUES)]
            _OF_TREES[damage.kind](node, key, value, others)
    return root[0]


_NOISE = (b"\x00", b"\xff", b"\n", b"[", b"}", b'"', b"\xc3", b"\x80", b",", b"\t", b"-", b"9")


def damage_bytes(content: bytes, damages: list[Damage]) -> bytes:
    """The bytes with every damage."""
    for kind, place, other in damages:
        at = place % (len(content) + 1)
        length = 1 + other % 64
        before, after = content[:at], content[at:]
        noise = _NOISE[other % len(_NOISE)]
        if kind == "truncate":
            content = before
        elif kind == "flip":
            content = before + bytes(b ^ (1 << other % 8) for b in after[:1]) + after[1:]
        elif kind == "overwrite":
            content = before + bytes([other % 256]) * len(after[:length]) + after[length:]
        elif kind == "insert":
            content = before + noise + after
        elif kind == "cut":
            content = before + after[length:]
        elif kind == "repeat":
            content = before + after[:length] + after
        elif kind == "bom":
            content = b"\xef\xbb\xbf" + content
        elif kind == "utf-16":
            content = content.decode("latin-1").encode("utf-16")
        elif kind == "carriage returns":
            content = content.replace(b"\n", b"\r\n")
        elif kind == "append":
            content += noise * length
    return content


_OF_BYTES = (
    "truncate", "flip", "overwrite", "insert", "cut", "repeat", "bom", "utf-16",
    "carriage returns", "append",
)  # fmt: skip
_OF_BINARIES = ("flip", "truncate", "overwrite", "insert", "cut", "repeat", "append")


def _decoded(kinds: tuple[str, ...], number: int) -> Damage:
    number, kind = divmod(number, len(kinds))
    place, other = divmod(number, _OTHERS)
    return Damage(kinds[kind], place, other)


def damages(kinds: Iterable[str], most: int = 3) -> st.SearchStrategy[list[Damage]]:
    """Lists of damages, each of one integer, short lists first."""
    kinds = tuple(kinds)
    numbers = st.lists(st.integers(0, len(kinds) * _OTHERS * _PLACES - 1), max_size=most)
    return numbers.map(lambda drawn: [_decoded(kinds, number) for number in drawn])


def _rarely_damaged(content: bytes, number: int) -> bytes:
    """The bytes, damaged for every fourth number."""
    number, rest = divmod(number, 4)
    return content if rest < 3 else damage_bytes(content, [_decoded(_OF_BYTES, number)])


_NUMBERS = st.integers(0, 4 * len(_OF_BYTES) * _OTHERS * _PLACES - 1)


def trees(*bases: Any, most: int = 4) -> st.SearchStrategy[Any]:
    """Damaged copies of what json can hold."""
    texts = [json.dumps(base) for base in bases]
    return st.builds(
        lambda text, faults: damage_tree(json.loads(text), faults),
        st.sampled_from(texts),
        damages(_OF_TREES, most),
    )


def damaged_bytes(*bases: bytes, most: int = 3, text: bool = False) -> st.SearchStrategy[bytes]:
    """Damaged copies of files; those of text are damaged as texts are, too."""
    faults = damages(_OF_BYTES if text else _OF_BINARIES, most)
    return st.builds(damage_bytes, st.sampled_from(bases), faults)


def json_text(content: Any) -> bytes:
    """Json of a damaged tree, with NaN, surrogates as escapes, and lists in each other."""
    text = json.dumps(content)
    for depth in (90, 400, 900, 100_000):
        marker = json.dumps(DEEP.format(depth))
        if marker in text:
            text = text.replace(marker, "[" * depth + "]" * depth)
    return text.encode()


def json_files(*bases: Any) -> st.SearchStrategy[bytes]:
    """Json files of damaged trees, in most cases without damaged bytes."""
    return st.builds(_rarely_damaged, trees(*bases).map(json_text), _NUMBERS)


def json_lines(*bases: Any, most: int = 3) -> st.SearchStrategy[bytes]:
    """Files with a damaged tree a line, in most cases without damaged bytes."""
    lines = st.lists(trees(*bases, most=2).map(json_text), max_size=most).map(b"\n".join)
    return st.builds(_rarely_damaged, lines, _NUMBERS)


def not_finite(value: Any, where: str = "") -> str:
    """The place of the first NaN or infinity in a result; "" if there is none."""
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, list | tuple):
        inner = (not_finite(one, f"{where}[{i}]") for i, one in enumerate(value))
        return next(filter(None, inner), "")
    if hasattr(value, "isfinite"):  # tensors
        return "" if bool(value.isfinite().all()) else where
    return where if isinstance(value, float) and not math.isfinite(value) else ""
