"""The vocabulary of a model: its embeddings, and its state for inference."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor, nn

from detclip2.modeling.alignment import Align, Alignment, ForRegions, GroupedSimilarity
from detclip2.utils.errors import UserError

Encode: TypeAlias = Callable[[Sequence[str]], Tensor]
"""M phrases -> (M, D)."""


@runtime_checkable
class EncodedVocabulary(Protocol):
    """The part of `Vocabulary` that a model reads."""

    embeddings: Tensor | None
    """(V, D) rows; None before they are encoded."""

    @property
    def label_of_row(self) -> Tensor | None:
        """(V,) int64 in [0, C), ascending; None if row c is label c."""


class VocabularyState:
    """A vocabulary of C labels, prepared for inference on the model's device.

    Args:
        align: computes S.
        embeddings: (V, D) on the model's device; several rows may belong to one label.
    """

    def __init__(self, align: Align, embeddings: Tensor) -> None:
        self.align = align
        self.embeddings = embeddings
        self._similarity: ForRegions | None = None
        self._chunks: dict[int, list[tuple[int, ForRegions]]] = {}

    def __len__(self) -> int:
        """V, the number of rows."""
        return len(self.embeddings)

    def similarity(self, regions: Tensor) -> Tensor:
        """(K, D) regions -> (K, C) logits."""
        if self._similarity is None:
            self._similarity = self.align.with_text(self.embeddings)
        return self._similarity(regions)

    def chunks(self, size: int) -> list[tuple[int, ForRegions]]:
        """First label and S, a function of regions, of each chunk of at most ``size`` labels."""
        if size not in self._chunks:
            self._chunks[size] = self.align.chunks(self.embeddings, size)
        return self._chunks[size]


Vocabulary: TypeAlias = Sequence[str] | Tensor | EncodedVocabulary
"""C names, their (C, D) embeddings, or an encoded `Vocabulary`."""


def prepared(
    rows: Sequence[str] | Tensor,
    label_of_row: Tensor | None,
    encode: Encode,
    align: Alignment,
) -> VocabularyState:
    """Prepare a vocabulary for inference, on the device of ``align``.

    Args:
        rows: V names, or their (V, D) embeddings.
        label_of_row: (V,) int64 in [0, C), ascending, the label of each row: the score of a label
            is that of its best row. None if row c is label c.
        encode: encodes names.
        align: computes S.
    """
    embeddings = rows if isinstance(rows, Tensor) else encode(rows)
    device = align.bias.device
    grouped = None if label_of_row is None else GroupedSimilarity(align, label_of_row.to(device))
    return VocabularyState(grouped or align, embeddings.to(device))


class TextBank(nn.Module):
    """Holds the vocabulary of a model, which is prepared once, on first use.

    It is a module without weights, to notice when weights change: training, loading weights and
    moving to a device discard what was computed. Embeddings that a caller has set stay.

    Args:
        names: names to detect until `set`, or a function that returns them, which is called when
            they are first needed.
    """

    def __init__(self, names: Sequence[str] | Callable[[], Sequence[str]] = ()) -> None:
        super().__init__()
        self._read_names = names if callable(names) else None
        self._rows: Sequence[str] | Tensor = () if callable(names) else tuple(names)
        self._label_of_row: Tensor | None = None
        self._state: Any = None

    def set(self, rows: Sequence[str] | Tensor, label_of_row: Tensor | None) -> None:
        """Replace the vocabulary: V names or (V, D) embeddings, and the label of each, if given."""
        self._rows = rows if isinstance(rows, Tensor) else tuple(rows)
        self._label_of_row = label_of_row
        self._state = None

    def state(self, prepare: Callable[[Sequence[str] | Tensor, Tensor | None], Any]) -> Any:
        """What ``prepare`` makes of the rows and their labels, for inference.

        Raises:
            UserError: there is no vocabulary.
        """
        if self._read_names is not None and isinstance(self._rows, tuple) and not self._rows:
            self._rows = tuple(self._read_names())
        if isinstance(self._rows, tuple) and not self._rows:
            raise UserError("the model has no vocabulary: call set_vocabulary(names) first")
        if self._state is None:
            self._state = prepare(self._rows, self._label_of_row)
        return self._state

    def train(self, mode: bool = True) -> "TextBank":
        """Discard what was computed: training changes the weights."""
        if mode:
            self._state = None
        return super().train(mode)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._state = None
        super()._load_from_state_dict(*args, **kwargs)

    def _apply(self, *args: Any, **kwargs: Any) -> "TextBank":
        self._state = None  # it is on the old device
        return super()._apply(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Without what depends on the weights, which may change in a copy of the model."""
        return {**vars(self), "_state": None}


def rows_of(
    vocabulary: Vocabulary, label_of_row: Tensor | None, width: int
) -> tuple[Sequence[str] | Tensor, Tensor | None]:
    """Names or (V, ``width``) embeddings, and the label of each row.

    Raises:
        UserError: the embeddings are not (V, ``width``), or the vocabulary is not encoded.
    """
    if isinstance(vocabulary, EncodedVocabulary):
        label_of_row, embeddings = vocabulary.label_of_row, vocabulary.embeddings
        if embeddings is None:
            raise UserError("the vocabulary has no embeddings yet: call its encode first")
        vocabulary = embeddings
    if isinstance(vocabulary, Tensor) and (vocabulary.dim() != 2 or vocabulary.shape[1] != width):
        raise UserError(f"the vocabulary is {tuple(vocabulary.shape)}; expected (C, {width})")
    return vocabulary, label_of_row
