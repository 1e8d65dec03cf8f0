"""The .safetensors file of a vocabulary: embeddings, and all texts in its metadata.

`detclip2.export.runner` reads it without PyTorch.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.inference.calibration import Calibration
from detclip2.utils.errors import UserError, shown
from detclip2.utils.files import write_whole
from detclip2.utils.json_text import parse_json

SYNONYM_RULES = ("mean", "max")
FORMAT = "detclip2-vocabulary-4"
READABLE = (FORMAT, "detclip2-vocabulary-3", "detclip2-vocabulary-2")
"""Version 3 has no calibration, version 2 no thresholds either."""

_TEXTS = ("labels", "prompts", "templates", "thresholds")
"""Fields of a vocabulary that are json in the metadata; the others are strings."""


def write_vocabulary(path: str | os.PathLike[str], fields: Mapping[str, Any]) -> None:
    """Write a vocabulary's fields, whole or not at all.

    Args:
        path: path of the file.
        fields: name -> value; ``embeddings`` and ``probe`` are arrays, or tensors on the CPU.

    Raises:
        UserError: the file cannot be written.
    """
    arrays = {key: np.ascontiguousarray(fields[key]) for key in ("embeddings", "probe")}
    texts = {key: json.dumps(fields[key], ensure_ascii=False) for key in _TEXTS}
    if (calibration := fields.get("calibration")) is not None:
        arrays["maps"] = np.ascontiguousarray(calibration.maps)
        texts["map_of_label"] = json.dumps(calibration.map_of_label)
    metadata = {
        "format": FORMAT,
        **texts,
        "synonyms": fields["synonyms"],
        "encoder": fields["encoder"],
        "width": str(arrays["embeddings"].shape[1]),
    }
    content = save(arrays, metadata)
    try:
        write_whole(Path(path), lambda file: file.write(content))
    except OSError as error:
        raise UserError(f"{path}: the vocabulary cannot be written here: {error}") from None


def read_vocabulary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """`read_arrays`, with tensors instead of arrays."""
    from torch import from_numpy  # the one use of PyTorch

    fields = read_arrays(path)
    return fields | {key: from_numpy(fields[key]) for key in ("embeddings", "probe")}


def read_arrays(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields that `write_vocabulary` wrote, and check that they are consistent.

    Args:
        path: path of the file.

    Returns:
        Name -> value, arrays in float32.

    Raises:
        UserError: the file is missing, damaged, of another version, or no vocabulary.
    """
    if not os.path.isfile(path):
        lists = ", ".join(BUILTIN_NAMES)
        raise UserError(
            f"{path}: there is no such vocabulary file, nor a built-in list of this name ({lists})"
        )
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays = {
                key: file.get_tensor(key).astype(np.float32)
                for key in file.keys()  # noqa: SIM118
            }
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: this vocabulary is damaged: {error}") from None
    written = metadata.get("format", "")
    if written not in READABLE and written.startswith(FORMAT.rstrip("0123456789")):
        raise UserError(
            f"{path}: another version of detclip2 wrote this vocabulary ({written}; expected "
            f"{FORMAT}): encode the names again"
        )
    if written not in READABLE:
        raise UserError(f"{path}: this is no vocabulary (format {FORMAT})")
    try:
        fields = {key: _tuples(parse_json(metadata.get(key, "null"))) for key in _TEXTS}
        fields |= {key: metadata[key] for key in ("synonyms", "encoder")}
        fields |= {key: arrays[key] for key in ("embeddings", "probe")}
        fields["calibration"] = _calibration(arrays, metadata)
        reason = _inconsistency(fields, int(metadata["width"]))
    except (KeyError, TypeError, ValueError) as error:
        reason = repr(error)
    if reason:
        raise UserError(f"{path}: this vocabulary is damaged: {reason}")
    return fields


def _inconsistency(fields: Mapping[str, Any], width: int) -> str:
    """The first inconsistency of the fields; "" if there is none."""
    labels, embeddings, thresholds = fields["labels"], fields["embeddings"], fields["thresholds"]
    if reason := _wrong_type(fields):
        return reason
    rows = [len(prompts) for prompts in fields["prompts"]]
    if fields["synonyms"] not in SYNONYM_RULES:
        return f"its rule for synonyms is {fields['synonyms']!r}"
    if len(rows) != len(labels) or 0 in rows or not rows:
        return f"it has prompts for {len(rows) - rows.count(0)} of its {len(labels)} labels"
    if embeddings.shape != (sum(rows), width) or fields["probe"].shape != (width,):
        return f"{tuple(embeddings.shape)} embeddings for {sum(rows)} names of width {width}"
    if thresholds is not None and len(thresholds) != len(labels):
        return f"it has {len(thresholds)} thresholds for its {len(labels)} labels"
    is_finite = np.isfinite(embeddings).all() and np.isfinite(fields["probe"]).all()
    if not is_finite:
        return "it holds NaN or infinity"
    calibration = fields["calibration"]
    return "" if calibration is None else calibration.fault(len(labels))


def _calibration(arrays: Mapping[str, Any], metadata: Mapping[str, str]) -> Calibration | None:
    if "maps" not in arrays:
        return None
    return Calibration(arrays["maps"], _tuples(parse_json(metadata["map_of_label"])))


def _wrong_type(fields: Mapping[str, Any]) -> str:
    """The first field from json whose values are not of its type; "" if there is none."""
    for key in ("labels", "templates"):
        if not _are_texts(fields[key]):
            return f"its {key} are {shown(fields[key])}, not a list of texts"
    prompts, thresholds = fields["prompts"], fields["thresholds"]
    if not isinstance(prompts, tuple) or not all(isinstance(rows, tuple) for rows in prompts):
        return f"its prompts are {shown(prompts)}, not lists for each label"
    # A row without texts was made of example boxes.
    if not all(texts == () or _are_texts(texts) for rows in prompts for texts in rows):
        return "its prompts are not all texts"
    if thresholds is None:
        return ""
    if not isinstance(thresholds, tuple) or not all(map(_is_score, thresholds)):
        return f"its thresholds are {shown(thresholds)}, not a list of scores from 0 to 1"
    return ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(one, str) for one in value)


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _tuples(value: Any) -> Any:
    """Lists of lists as tuples of tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
