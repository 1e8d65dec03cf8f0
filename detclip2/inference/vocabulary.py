"""What to detect: names as the caller wrote them, and the embeddings that stand for them."""

import json
import logging
import os
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from detclip2.data.sample import clean_phrase
from detclip2.data.text.names import (
    Names,
    check_names,
    read_builtin,
    read_names,
    split_names,
    without_repeats,
)
from detclip2.inference.prompt_ensemble import PhraseEncoder, mean_embeddings, twins
from detclip2.inference.vocabulary_file import read_vocabulary, write_vocabulary
from detclip2.utils.errors import UserError

SYNONYM_RULES = ("mean", "max")
# Encoded with every vocabulary and kept beside it: two encoders that call themselves the same but
# hold different weights differ here.
PROBE = "a photo of something"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """C labels, for each the prompts that describe it, and their embeddings once encoded.

    A label is exactly the string that the caller wrote. It may have several names, its synonyms,
    and each name has one prompt for each template. `synonyms` says what the names of a label are
    to each other:

    - "mean": one embedding a label, the mean of all its prompts' unit-length embeddings scaled to
      unit length (as prompt ensembles of CLIP). The score is that of the mean prompt.
    - "max": one embedding a name, the mean over the templates. The score of a label in a place is
      that of its best name there: for names that look different ("bat": the animal, the club).

    Make one with :meth:`from_names` and its siblings.
    """

    labels: tuple[str, ...]
    """C distinct strings, as the caller wrote them."""
    prompts: tuple[tuple[tuple[str, ...], ...], ...]
    """For each label its rows of the embeddings, for each row the texts it is the mean of."""
    templates: tuple[str, ...] = ("{}",)
    """What names were put into."""
    synonyms: str = "mean"
    """One of `SYNONYM_RULES`."""
    embeddings: Tensor | None = field(default=None, compare=False)
    """(R, D) unit-length rows on the CPU, float32; None before :meth:`encode`. R is C, or the
    number of names under the rule "max"."""
    encoder: str = ""
    """Identity of the text encoder that made the embeddings."""
    probe: Tensor | None = field(default=None, compare=False)
    """(D,) embedding of `PROBE` by the same encoder."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """What it is, in a line, however much it holds."""
        width = "" if self.embeddings is None else f", {self.embeddings.shape[1]} wide"
        encoded = f"encoded by {self.encoder!r}{width}" if self.is_encoded else "not encoded"
        return (
            f"Vocabulary({len(self)} labels: {_beginning(self.labels)}; "
            f"{sum(map(len, self.prompts))} rows; synonyms by {self.synonyms}; "
            f"{len(self.templates)} templates: {_beginning(self.templates)}; {encoded})"
        )

    @classmethod
    def from_names(
        cls,
        names: Names,
        templates: Sequence[str] = ("{}",),
        definitions: Mapping[str, str] | None = None,
        synonyms: str = "mean",
    ) -> "Vocabulary":
        """Labels from a list; an entry that is itself a list holds the names of one label.

        The first of several names is the label, the others are its synonyms. A name that comes
        again is left out with a warning, because it would find every object twice.

        Args:
            names: C entries.
            templates: each has a "{}" for the name, e.g. "a photo of a {}".
            definitions: label -> what it is; appended to every prompt of that label, as "name,
                definition" (concept enrichment, paper sec. 3.1).
            synonyms: how the names of one label make its score, "mean" or "max"; see the class.

        Raises:
            UserError: no names; a name that is not a string, empty, or longer than 1,000
                characters (with its position); a template without "{}"; a definition of no label;
                another rule for synonyms.
        """
        if synonyms not in SYNONYM_RULES:
            raise UserError(f"synonyms is {synonyms!r}; expected one of {', '.join(SYNONYM_RULES)}")
        if isinstance(templates, str):
            templates = (templates,)
        for template in templates:
            if template.count("{}") != 1:
                raise UserError(f'template {template!r} must hold "{{}}" once, where the name goes')
        if not templates:
            raise UserError('there are no templates: give at least "{}"')
        entries = without_repeats(check_names(names))
        labels = tuple(entry[0] for entry in entries)
        definitions = definitions or {}
        if strangers := [name for name in definitions if name not in labels]:
            raise UserError(f"there is a definition of {strangers[0]!r}, which is not a label")
        prompts = []
        for label, entry in zip(labels, entries, strict=True):
            ending = f", {clean_phrase(definitions[label])}" if definitions.get(label) else ""
            unique = dict.fromkeys(clean_phrase(name) for name in entry)
            rows = [tuple(t.replace("{}", n) + ending for t in templates) for n in unique]
            prompts.append(tuple(rows) if synonyms == "max" else (sum(rows, ()),))
        return cls(labels, tuple(prompts), tuple(templates), synonyms)

    @classmethod
    def from_text(cls, text: str, templates: Sequence[str] = ("{}",)) -> "Vocabulary":
        """Names separated by commas: ``"red apple, fire engine"``.

        Raises:
            UserError: as :meth:`from_names`.
        """
        return cls.from_names(split_names(text), templates)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        templates: Sequence[str] = ("{}",),
        synonyms: str = "mean",
    ) -> "Vocabulary":
        """Names from a text file, one a line, or from a csv (:mod:`detclip2.data.text.names`).

        Raises:
            UserError: the file cannot be read; and as :meth:`from_names`.
        """
        names, definitions = read_names(path)
        try:
            return cls.from_names(names, templates, definitions, synonyms)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @classmethod
    def builtin(
        cls,
        name: str,
        templates: Sequence[str] = ("{}",),
        synonyms: str | None = None,
        definitions: bool = False,
    ) -> "Vocabulary":
        """The categories of a data set, in the order of their ids: "coco", "lvis", "objects365".

        Args:
            name: of the list.
            templates: see :meth:`from_names`.
            synonyms: a rule of :meth:`from_names`; None leaves out the synonyms that a list has,
                as zero-shot evaluations do.
            definitions: whether to use those that a list has. (The paper does, sec. 3.1.)

        Raises:
            UserError: there is no such list; and as :meth:`from_names`.
        """
        entries, described = read_builtin(name)
        if synonyms is None:
            entries = [entry[:1] for entry in entries]
        described = described if definitions else {}
        return cls.from_names(entries, templates, described, synonyms or "mean")

    @property
    def is_encoded(self) -> bool:
        """Whether there are embeddings, so that no text encoder is needed."""
        return self.embeddings is not None

    @cached_property
    def label_of_row(self) -> Tensor | None:
        """(R,) int64, the label of each row of the embeddings; None where row c is label c."""
        rows = torch.tensor([len(rows) for rows in self.prompts])
        if (rows == 1).all():
            return None
        return torch.arange(len(self)).repeat_interleave(rows)

    def encode(self, encode_phrases: PhraseEncoder, encoder: str = "") -> "Vocabulary":
        """The same vocabulary with embeddings.

        Each distinct prompt is encoded once, many at a time, with a progress bar where
        that takes several calls. Labels that the encoder cannot tell apart are warned about.

        Args:
            encode_phrases: list of M prompts -> (M, D), one row a prompt, in order.
            encoder: names the encoder, for :meth:`check_fits`.

        Raises:
            UserError: the encoder gave NaN or infinity.
        """
        rows = [texts for label in self.prompts for texts in label]
        means = mean_embeddings([*rows, (PROBE,)], encode_phrases)
        embeddings, probe = means[:-1].clone(), means[-1].clone()
        encoded = replace(self, embeddings=embeddings, encoder=encoder, probe=probe)
        encoded._warn_indistinguishable()
        return encoded

    def check_fits(
        self, encoder: str, width: int, encode_phrases: PhraseEncoder | None = None
    ) -> None:
        """Refuse embeddings that a model would misread.

        Args:
            encoder: identity of the model's text encoder; "" where it has none.
            width: the model's D.
            encode_phrases: the model's text encoder, to see that its weights are the same too.

        Raises:
            UserError: another encoder, width, or weights.
        """
        if self.embeddings is None:
            raise ValueError("the vocabulary has no embeddings yet: call encode first")
        again = "encode the names again with this model"
        if self.embeddings.shape[1] != width:
            raise UserError(
                f"the vocabulary's embeddings are {self.embeddings.shape[1]} wide and the model's "
                f"are {width}: {again}"
            )
        if encoder and self.encoder and encoder != self.encoder:
            raise UserError(
                f"the vocabulary was made by the text encoder {self.encoder!r} and the model has "
                f"{encoder!r}: {again}"
            )
        if encode_phrases is not None and self.probe is not None:
            [probe] = mean_embeddings([(PROBE,)], encode_phrases)
            # Half precision stays above 0.999, a training step is below.
            if probe @ self.probe < 0.999:
                raise UserError(
                    f"the vocabulary was made by the same text encoder with other weights: {again}"
                )

    def _warn_indistinguishable(self) -> None:
        """Say which labels have the same embedding, e.g. where a tokenizer knows neither script."""
        assert self.embeddings is not None
        for first, second in twins(self.embeddings):
            labels = first, second
            if self.label_of_row is not None:
                labels = int(self.label_of_row[first]), int(self.label_of_row[second])
            if labels[0] != labels[1]:
                logger.warning(
                    "the text encoder cannot tell %r from %r, nor perhaps other names: they will "
                    "be found at the same places",
                    *(self.labels[label] for label in labels),
                )
                return

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write embeddings and names to a .safetensors file, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        if self.embeddings is None or self.probe is None:
            raise ValueError("the vocabulary has no embeddings yet: call encode first")
        texts = {"labels": self.labels, "prompts": self.prompts, "templates": self.templates}
        metadata = {
            **{key: json.dumps(value, ensure_ascii=False) for key, value in texts.items()},
            "synonyms": self.synonyms,
            "encoder": self.encoder,
            "width": str(self.embeddings.shape[1]),
        }
        write_vocabulary(path, {"embeddings": self.embeddings, "probe": self.probe}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is missing, damaged, of another version, or no vocabulary.
        """
        tensors, metadata = read_vocabulary(path)
        try:
            vocabulary = cls(
                labels=tuple(json.loads(metadata["labels"])),
                prompts=tuple(
                    tuple(tuple(texts) for texts in rows)
                    for rows in json.loads(metadata["prompts"])
                ),
                templates=tuple(json.loads(metadata["templates"])),
                synonyms=metadata["synonyms"],
                embeddings=tensors["embeddings"],
                encoder=metadata["encoder"],
                probe=tensors["probe"],
            )
            width = int(metadata["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: this vocabulary is damaged: {error!r}") from None
        if reason := vocabulary._inconsistency(width):
            raise UserError(f"{path}: this vocabulary is damaged: {reason}")
        return vocabulary

    def _inconsistency(self, width: int) -> str:
        """What in a file does not go together; "" if all does."""
        assert self.embeddings is not None
        assert self.probe is not None
        rows = [len(rows) for rows in self.prompts]
        if self.synonyms not in SYNONYM_RULES:
            return f"its rule for synonyms is {self.synonyms!r}"
        if len(rows) != len(self) or 0 in rows or not rows:
            return f"it has prompts for {len(rows) - rows.count(0)} of its {len(self)} labels"
        if self.embeddings.shape != (sum(rows), width) or self.probe.shape != (width,):
            shape = tuple(self.embeddings.shape)
            return f"{shape} embeddings for {sum(rows)} names of width {width}"
        return "" if self.embeddings.isfinite().all() else "it holds NaN or infinity"


def _beginning(texts: Sequence[str]) -> str:
    return ", ".join([*map(reprlib.repr, texts[:3]), *(["..."] if len(texts) > 3 else [])])
