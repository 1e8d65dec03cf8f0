"""What a graph file says of itself: its metadata. No PyTorch is imported here."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from detclip2.inference.calibration import Calibration
from detclip2.utils.errors import UserError

FORMAT = "detclip2-graph-1"
PREFIX = "detclip2."
"""Of the names of all properties."""


@dataclass(frozen=True)
class GraphInfo:
    """The metadata of a graph: all that a runner has to know beside the weights.

    In a file each field is a property ``detclip2.NAME`` in json, and ``detclip2.format`` is
    `FORMAT`. A graph has the inputs

    - ``image`` (1, 3, H, W) float32, RGB in 0..255, padded on the right and below with `padding`;
    - ``vocabulary`` (R, D) float32, embeddings of any length, unless its vocabulary is folded in;

    and the outputs

    - ``logits`` (1, K, R): the similarity S of each anchor and each row of the vocabulary;
    - ``centerness`` (1, K) logits;
    - ``boxes`` (1, K, 4): XYXY px of ``image``, not clipped.
    """

    encoder: str
    """Identity of the text encoder whose embeddings fit."""
    probe: tuple[float, ...]
    """D values: the probe of a vocabulary of this encoder, to recognise its weights."""
    size: tuple[int, int] | None
    """H and W of ``image``, px; None: free, multiples of `divisor`."""
    min_size: int
    """At a free size, an image is resized so that the shorter edge has this length, px ..."""
    max_size: int
    """... unless the longer edge would exceed this one, px."""
    divisor: int
    """H and W are multiples of it, px."""
    padding: tuple[float, float, float]
    """RGB in 0..255; the colour that is zero after normalisation."""
    score_threshold: float
    """See `detclip2.modeling.postprocess.DetectionThresholds`; so the next three."""
    nms_threshold: float
    class_agnostic_nms: bool
    max_detections: int
    max_candidates: int
    """How many (box, label) pairs enter the suppression."""
    labels: tuple[str, ...] | None = None
    """The C labels of a vocabulary that is folded in; None: the vocabulary is an input."""
    rows: tuple[int, ...] | None = None
    """How many of the R columns of ``logits`` belong to each label, in order; the score of a label
    is that of its best one."""
    thresholds: tuple[float, ...] | None = None
    """For each label the minimum score of its detections, in [0, 1]; None: no limits."""
    maps: tuple[tuple[float, ...], ...] | None = None
    """Those of a `detclip2.inference.calibration.Calibration`; None: scores are the model's."""
    map_of_label: tuple[int, ...] | None = None
    """See there."""

    @cached_property
    def calibration(self) -> Calibration | None:
        """That of the labels."""
        if self.maps is None or self.map_of_label is None:
            return None
        return Calibration(np.array(self.maps, np.float32), self.map_of_label)

    def properties(self) -> dict[str, str]:
        """The fields as the properties of a graph file."""
        texts = {PREFIX + f.name: json.dumps(getattr(self, f.name)) for f in fields(self)}
        return {PREFIX + "format": FORMAT, **texts}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], name: str) -> "GraphInfo":
        """The fields in the properties of a graph file.

        Args:
            properties: of the file; those of others are ignored.
            name: the file's, in messages.

        Raises:
            UserError: this package did not write them, or another version did.
        """
        written = properties.get(PREFIX + "format")
        if written != FORMAT:
            known = "it has no metadata of detclip2" if written is None else f"it is {written}"
            raise UserError(
                f"{name}: {known}, where {FORMAT} is expected: make it with `detclip2 export`"
            )
        try:
            values = {
                f.name: _tuples(json.loads(properties[PREFIX + f.name]))
                for f in fields(cls)
                if PREFIX + f.name in properties or f.default is MISSING
            }
        except (KeyError, ValueError) as error:
            raise UserError(f"{name}: the metadata of this graph is damaged: {error!r}") from None
        return cls(**values)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
