"""The vocabulary: labels as the caller wrote them, their prompts and their embeddings."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.names import (
    Names,
    check_names,
    read_builtin,
    read_names,
    split_names,
    without_repeats,
)
from detclip2.data.text.prompts import Definitions, check_templates, definition_of, prompts_of
from detclip2.inference.calibration import Calibration
from detclip2.inference.described import description_of, summary_of
from detclip2.inference.vocabulary_file import SYNONYM_RULES, read_vocabulary, write_vocabulary
from detclip2.modeling.text.prompt_ensemble import PhraseEncoder, mean_embeddings, twins
from detclip2.utils.errors import UserError

# Encoded with every vocabulary and stored beside it, to distinguish encoders with the same identity
# but different weights.
PROBE = "a photo of something"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """C labels with their prompts, and with their embeddings once they are encoded.

    The predictor, all evaluations and the commands use this class. A label is exactly the string
    that the caller wrote. It may have several names, its synonyms, and each name has one prompt for
    each template. `synonyms` is the rule by which the names of a label give its score:

    - "mean": one embedding a label, the mean of all its prompts' unit-length embeddings scaled to
      unit length (as prompt ensembles of CLIP). The score is that of the mean prompt.
    - "max": one embedding a name, the mean over the templates. The score of a label in a region is
      that of its best name: for names of different looks ("bat": the animal, the club).

    `from_names` and the other class methods make one.
    """

    labels: tuple[str, ...]
    """C strings, as the caller wrote them; distinct, unless a data set repeats a name."""
    prompts: tuple[tuple[tuple[str, ...], ...], ...]
    """For each label its rows of the embeddings, and for each row the prompts that it averages;
    none if it was made of example boxes (`detclip2.inference.examples`)."""
    templates: tuple[str, ...] = ("{}",)
    """The templates of the prompts."""
    synonyms: str = "mean"
    """One of `SYNONYM_RULES`."""
    thresholds: tuple[float, ...] | None = None
    """For each label the minimum score of its detections, in [0, 1]; None: no limits."""
    calibration: Calibration | None = field(default=None, compare=False)
    """From scores of the model to those that are reported, and that `thresholds` are of."""
    embeddings: Tensor | None = field(default=None, compare=False)
    """(V, D) unit-length rows on the CPU, float32; None before `encode`. V is C, or the number of
    names under the rule "max"."""
    encoder: str = ""
    """Identity of the text encoder that made the embeddings."""
    probe: Tensor | None = field(default=None, compare=False)
    """(D,) embedding of `PROBE` by the same encoder."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """A summary in one line."""
        return summary_of(self)

    @classmethod
    def from_names(
        cls,
        names: Names,
        templates: Sequence[str] = ("{}",),
        definitions: Mapping[str, str] | None = None,
        synonyms: str = "mean",
    ) -> "Vocabulary":
        """Labels from a list; an entry that is itself a list holds the names of one label.

        The first of several names is the label, the others are its synonyms. A repeated name is
        skipped with a warning, because its objects would be detected twice.

        Args:
            names: C entries.
            templates: each has a "{}" for the name, e.g. "a photo of a {}".
            definitions: label -> definition; appended to every prompt of that label, as "name,
                definition" (concept enrichment, paper sec. 3.1).
            synonyms: "mean" or "max", see the class.

        Raises:
            UserError: no names; a name that is not a string, empty, or longer than 1,000
                characters (with its position); a template without "{}"; a definition of no label;
                an unknown rule for synonyms.
        """
        entries = without_repeats(check_names(names))
        labels = {entry[0] for entry in entries}
        if unknown := [name for name in definitions or () if name not in labels]:
            raise UserError(f"there is a definition of {unknown[0]!r}, which is not a label")
        return cls._of_entries(entries, templates, definitions, synonyms)

    @classmethod
    def from_text(cls, text: str, templates: Sequence[str] = ("{}",)) -> "Vocabulary":
        """Names separated by commas: ``"red apple, fire engine"``.

        Raises:
            UserError: as `from_names`.
        """
        return cls.from_names(split_names(text), templates)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        templates: Sequence[str] = ("{}",),
        synonyms: str = "mean",
    ) -> "Vocabulary":
        """Names from a text file, one a line, or from a csv (`detclip2.data.text.names`).

        Raises:
            UserError: the file cannot be read; and as `from_names`.
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
            name: name of the list.
            templates: see `from_names`.
            synonyms: a rule of `from_names`; None skips the synonyms that a list has, as zero-shot
                evaluations do.
            definitions: whether to use those that a list has, as the paper does (sec. 3.1).

        Raises:
            UserError: there is no such list; and as `from_names`.
        """
        entries, described = read_builtin(name)
        if synonyms is None:
            entries = [entry[:1] for entry in entries]
        described = described if definitions else {}
        return cls.from_names(entries, templates, described, synonyms or "mean")

    @classmethod
    def of_dataset(
        cls,
        dataset_name: str,
        templates: Sequence[str] = ("{}",),
        definitions: Definitions | None = None,
        synonyms: str | None = None,
    ) -> "Vocabulary":
        """The categories of a registered data set, for evaluation on it.

        Label c is the category with the contiguous id c, so none is skipped: a name that a data
        set repeats gives two labels.

        Args:
            dataset_name: its name in Detectron2's catalogs.
            templates: see `from_names`.
            definitions: name -> definition, or a ConceptDictionary; used in the paper (sec. 3.1).
            synonyms: a rule of `from_names`, for the synonyms in the data set's json; None uses
                the names alone, as zero-shot evaluations do.

        Raises:
            UserError: the data set is not registered, or its json cannot be read; a template
                without "{}"; an unknown rule for synonyms.
        """
        from detclip2.data.datasets import detection  # which a prediction never needs

        names = detection.category_names(dataset_name)
        others = detection.category_synonyms(dataset_name) if synonyms else {}
        entries = [(name, *others.get(name, ())) for name in names]
        return cls._of_entries(entries, templates, definitions, synonyms or "mean")

    @classmethod
    def _of_entries(
        cls,
        entries: Iterable[Sequence[str]],
        templates: Sequence[str],
        definitions: Definitions | None,
        synonyms: str,
    ) -> "Vocabulary":
        """From checked entries: the names of each label, the first of which is the label."""
        if synonyms not in SYNONYM_RULES:
            raise UserError(f"synonyms is {synonyms!r}; expected one of {', '.join(SYNONYM_RULES)}")
        templates = check_templates(templates)
        labels, prompts = [], []
        for entry in entries:
            definition = definition_of(entry[0], definitions)
            names = dict.fromkeys(map(clean_phrase, entry))
            rows = [tuple(prompts_of(name, templates, definition)) for name in names]
            labels.append(entry[0])
            prompts.append(tuple(rows) if synonyms == "max" else (sum(rows, ()),))
        return cls(tuple(labels), tuple(prompts), templates, synonyms)

    @property
    def is_encoded(self) -> bool:
        """Whether there are embeddings, so that no text encoder is needed."""
        return self.embeddings is not None

    @cached_property
    def label_of_row(self) -> Tensor | None:
        """(V,) int64, the label of each row of the embeddings; None if row c is label c."""
        rows = torch.tensor([len(rows) for rows in self.prompts])
        if (rows == 1).all():
            return None
        return torch.arange(len(self)).repeat_interleave(rows)

    @property
    def of_examples(self) -> tuple[str, ...]:
        """The labels whose rows were made of example boxes, and not of text."""
        pairs = zip(self.labels, self.prompts, strict=True)
        return tuple(label for label, rows in pairs if not all(rows))

    def _check_all_have_text(self) -> None:
        if self.of_examples:
            raise UserError(
                f"{self.of_examples[0]!r} was given by example boxes, of which no text can take "
                "the place: make the vocabulary again with detclip2 vocabulary --examples"
            )

    @property
    def definitions(self) -> tuple[str, ...]:
        """The definition of each label, which follows its names in prompts; "" without one."""
        bare = [prompts_of(label, self.templates[:1])[0] for label in self.labels]
        first = [(*rows[0], "")[0] for rows in self.prompts]
        return tuple(p.removeprefix(b)[2:] for p, b in zip(first, bare, strict=True))

    @property
    def description(self) -> str:
        """What a model is asked for, in one line, for the protocol of an evaluation."""
        return description_of(self)

    def with_thresholds(self, thresholds: Mapping[str, float]) -> "Vocabulary":
        """The same vocabulary with a minimum score for some labels, and 0 for the others.

        Raises:
            UserError: a name that is not a label, or a score outside of [0, 1].
        """
        for label, score in thresholds.items():
            if label not in self.labels:
                raise UserError(f"there is a threshold of {label!r}, which is not a label")
            if not 0 <= score <= 1:
                raise UserError(f"the threshold of {label!r} is {score}; expected 0 to 1")
        return replace(self, thresholds=tuple(float(thresholds.get(n, 0)) for n in self.labels))

    def encode_with(self, model: Any, encode_phrases: PhraseEncoder | None = None) -> "Vocabulary":
        """The same vocabulary with embeddings for a model; unchanged for one that reads names.

        Args:
            model: an `OpenVocabularyModel`.
            encode_phrases: used instead of the model's.

        Raises:
            UserError: embeddings do not fit (`check_fits`), or there are none and no text encoder;
                or the model reads names, and there is a calibration or a label of examples.
        """
        if model.reads_names:
            if self.calibration is not None:
                raise UserError("this model reads names: no calibration fits it, give it the names")
            self._check_all_have_text()
            return self
        encode_phrases = encode_phrases or model.encode_phrases
        identity = model.text_identity
        if not self.is_encoded:
            return self.encode(encode_phrases, identity or "")
        self.check_fits(identity or "", model.embed_dim, encode_phrases if identity else None)
        return self

    def encode(self, encode_phrases: PhraseEncoder, encoder: str = "") -> "Vocabulary":
        """The same vocabulary with embeddings, without a calibration of earlier ones.

        Each distinct prompt is encoded once, in batches, with a progress bar if there are several.
        A warning names labels that the encoder cannot distinguish.

        Args:
            encode_phrases: list of M prompts -> (M, D), one row a prompt, in order.
            encoder: identity of the encoder, for `check_fits`.

        Raises:
            UserError: the encoder returns NaN or infinity; a label was given by examples.
        """
        self._check_all_have_text()
        rows = [texts for label in self.prompts for texts in label]
        means = mean_embeddings([*rows, (PROBE,)], encode_phrases, _with_progress)
        embeddings, probe = means[:-1].clone(), means[-1].clone()
        encoded = replace(self, embeddings=embeddings, encoder=encoder, probe=probe)
        if self.calibration is not None:
            encoded = replace(encoded, calibration=None, thresholds=None)
        encoded._warn_indistinguishable()
        return encoded

    def check_fits(
        self, encoder: str, width: int, encode_phrases: PhraseEncoder | None = None
    ) -> None:
        """Refuse embeddings that do not fit a model.

        Args:
            encoder: identity of the model's text encoder; "" if it has none.
            width: the model's D.
            encode_phrases: the model's text encoder, to compare its weights too.

        Raises:
            UserError: encoder, width or weights differ.
            ValueError: the vocabulary is not encoded.
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
            # Half precision keeps the cosine above 0.999; a training step does not.
            if probe @ self.probe < 0.999:
                raise UserError(
                    f"the vocabulary was made by the same text encoder with other weights: {again}"
                )

    def _warn_indistinguishable(self) -> None:
        """Warn of labels with equal embeddings, e.g. if a tokenizer knows neither script."""
        assert self.embeddings is not None
        for first, second in twins(self.embeddings):
            labels = first, second
            if self.label_of_row is not None:
                labels = int(self.label_of_row[first]), int(self.label_of_row[second])
            if self.labels[labels[0]] != self.labels[labels[1]]:
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
            ValueError: the vocabulary is not encoded.
        """
        if self.embeddings is None or self.probe is None:
            raise ValueError("the vocabulary has no embeddings yet: call encode first")
        write_vocabulary(path, {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            UserError: the file is missing, damaged, of another version, or no vocabulary.
        """
        return cls(**read_vocabulary(path))


def _with_progress(batches: Sequence[list[str]]) -> Iterable[list[str]]:
    """The batches, with a progress bar if there are several."""
    if len(batches) < 2:
        return batches
    return track(batches, "encoding names", transient=True, console=Console(stderr=True))
