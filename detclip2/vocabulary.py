"""What to detect: names as the caller wrote them, and the embeddings that stand for them."""

import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from detclip2.data.names import Names, check_names, read_names, split_names
from detclip2.data.phrases import clean_phrase
from detclip2.errors import UserError
from detclip2.files import write_whole

PhraseEncoder: TypeAlias = Callable[[list[str]], Tensor]

FORMAT = "detclip2-vocabulary-1"
BATCH_SIZE = 256  # prompts a call of the text encoder
# Encoded with every vocabulary and kept beside it: two encoders that call themselves the same but
# hold different weights differ here.
PROBE = "a photo of something"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Vocabulary:
    """C labels, for each the prompts that describe it, and their embeddings once encoded.

    A label is exactly the string that the caller wrote. It has one prompt for each of its names
    and each template. Its embedding is the mean of its prompts' unit-length embeddings, scaled to
    unit length (as prompt ensembles of CLIP), so its score is that of the mean prompt, not the
    best of its prompts. Make one with :meth:`from_names` and its siblings.
    """

    labels: tuple[str, ...]
    """C distinct strings, as the caller wrote them."""
    prompts: tuple[tuple[str, ...], ...]
    """For each label the texts to encode; never empty."""
    templates: tuple[str, ...] = ("{}",)
    """What names were put into."""
    embeddings: Tensor | None = field(default=None, compare=False, repr=False)
    """(C, D) unit-length rows on the CPU, float32; None before :meth:`encode`."""
    encoder: str = ""
    """Identity of the text encoder that made the embeddings."""
    probe: Tensor | None = field(default=None, compare=False, repr=False)
    """(D,) embedding of `PROBE` by the same encoder."""

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_names(
        cls,
        names: Names,
        templates: Sequence[str] = ("{}",),
        definitions: Mapping[str, str] | None = None,
    ) -> "Vocabulary":
        """Labels from a list; an entry that is itself a list holds the names of one label.

        The first of several names is the label, the others are its synonyms. A name that comes
        again is left out with a warning, because it would find every object twice.

        Args:
            names: C entries.
            templates: each has a "{}" for the name, e.g. "a photo of a {}".
            definitions: label -> what it is; appended to every prompt of that label, as "name,
                definition" (concept enrichment, paper sec. 3.1).

        Raises:
            UserError: no names; a name that is not a string, empty, or longer than 1,000
                characters (with its position); a template without "{}"; a definition of no label.
        """
        if isinstance(templates, str):
            templates = (templates,)
        for template in templates:
            if template.count("{}") != 1:
                raise UserError(f'template {template!r} must hold "{{}}" once, where the name goes')
        if not templates:
            raise UserError('there are no templates: give at least "{}"')
        entries = _without_repeats(check_names(names))
        labels = tuple(entry[0] for entry in entries)
        definitions = definitions or {}
        if strangers := [name for name in definitions if name not in labels]:
            raise UserError(f"there is a definition of {strangers[0]!r}, which is not a label")
        prompts = []
        for label, entry in zip(labels, entries, strict=True):
            ending = f", {clean_phrase(definitions[label])}" if definitions.get(label) else ""
            unique = dict.fromkeys(clean_phrase(name) for name in entry)
            prompts.append(tuple(t.replace("{}", n) + ending for n in unique for t in templates))
        return cls(labels, tuple(prompts), tuple(templates))

    @classmethod
    def from_text(cls, text: str, templates: Sequence[str] = ("{}",)) -> "Vocabulary":
        """Names separated by commas: ``"red apple, fire engine"``.

        Raises:
            UserError: as :meth:`from_names`.
        """
        return cls.from_names(split_names(text), templates)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], templates: Sequence[str] = ("{}",)
    ) -> "Vocabulary":
        """Names from a text file, one a line, or from a csv (:mod:`detclip2.data.names`).

        Raises:
            UserError: the file cannot be read; and as :meth:`from_names`.
        """
        names, definitions = read_names(path)
        try:
            return cls.from_names(names, templates, definitions)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    @property
    def is_encoded(self) -> bool:
        """Whether there are embeddings, so that no text encoder is needed."""
        return self.embeddings is not None

    def encode(self, encode_phrases: PhraseEncoder, encoder: str = "") -> "Vocabulary":
        """The same vocabulary with embeddings.

        Each distinct prompt is encoded once, `BATCH_SIZE` at a time, with a progress bar where
        that takes several calls. Labels that the encoder cannot tell apart are warned about.

        Args:
            encode_phrases: list of M prompts -> (M, D), one row a prompt, in order.
            encoder: names the encoder, for :meth:`check_fits`.

        Raises:
            UserError: the encoder gave NaN or infinity.
        """
        texts = list(dict.fromkeys(prompt for group in self.prompts for prompt in group))
        starts: Iterable[int] = range(0, len(texts), BATCH_SIZE)
        if len(texts) > BATCH_SIZE:
            console = Console(stderr=True)
            starts = track(list(starts), "encoding names", transient=True, console=console)
        rows = [encode_phrases(texts[i : i + BATCH_SIZE]).detach().float().cpu() for i in starts]
        units = F.normalize(torch.cat(rows), dim=1)
        row = {text: i for i, text in enumerate(texts)}
        label_of = torch.tensor([i for i, group in enumerate(self.prompts) for _ in group])
        prompt_row = torch.tensor([row[prompt] for group in self.prompts for prompt in group])
        sums = torch.zeros(len(self), units.shape[1]).index_add_(0, label_of, units[prompt_row])
        embeddings = F.normalize(sums, dim=1)
        if not embeddings.isfinite().all():
            raise UserError("the text encoder gives NaN or infinity: its weights are damaged")
        self._warn_of_twins(embeddings)
        probe = F.normalize(encode_phrases([PROBE]).detach().float().cpu()[0], dim=0)
        return replace(self, embeddings=embeddings, encoder=encoder, probe=probe)

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
            probe = F.normalize(encode_phrases([PROBE]).detach().float().cpu()[0], dim=0)
            if (
                probe @ self.probe < 0.999
            ):  # half precision stays above it, a training step is below
                raise UserError(
                    f"the vocabulary was made by the same text encoder with other weights: {again}"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write embeddings and names to a .safetensors file, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        if self.embeddings is None or self.probe is None:
            raise ValueError("the vocabulary has no embeddings yet: call encode first")
        metadata = {
            "format": FORMAT,
            "labels": json.dumps(self.labels, ensure_ascii=False),
            "prompts": json.dumps(self.prompts, ensure_ascii=False),
            "templates": json.dumps(self.templates, ensure_ascii=False),
            "encoder": self.encoder,
            "width": str(self.embeddings.shape[1]),
        }
        content = save({"embeddings": self.embeddings, "probe": self.probe}, metadata)
        try:
            write_whole(Path(path), lambda file: file.write(content))
        except OSError as error:
            raise UserError(f"{path}: the vocabulary cannot be written here: {error}") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Vocabulary":
        """Read what :meth:`save` wrote.

        Raises:
            UserError: the file is missing, damaged, or no vocabulary.
        """
        path = Path(path)
        if not os.path.isfile(path):
            raise UserError(f"{path}: there is no such vocabulary file.")
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: this vocabulary is damaged: {error}.") from None
        if metadata.get("format") != FORMAT:
            raise UserError(f"{path}: this is no vocabulary (format {FORMAT}).")
        try:
            embeddings, probe = tensors["embeddings"], tensors["probe"]
            labels = tuple(json.loads(metadata["labels"]))
            prompts = tuple(tuple(group) for group in json.loads(metadata["prompts"]))
            templates = tuple(json.loads(metadata["templates"]))
            shape = (len(labels), int(metadata["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: this vocabulary is damaged: {error}.") from None
        if embeddings.shape != shape or probe.shape != shape[1:] or len(prompts) != len(labels):
            raise UserError(
                f"{path}: this vocabulary is damaged: {tuple(embeddings.shape)} embeddings for "
                f"{shape[0]} labels of width {shape[1]}."
            )
        if not embeddings.isfinite().all():
            raise UserError(f"{path}: this vocabulary is damaged: it holds NaN or infinity.")
        return cls(labels, prompts, templates, embeddings, metadata.get("encoder", ""), probe)

    def _warn_of_twins(self, embeddings: Tensor) -> None:
        """Say which labels have the same embedding, e.g. where a tokenizer knows neither script."""
        for start in range(0, len(embeddings), 1024):
            similarity = embeddings[start : start + 1024] @ embeddings.T
            # Rounding leaves a unit vector's square within 1e-6 of 1.
            row, column = (similarity > 1 - 1e-6).nonzero(as_tuple=True)
            later = column > row + start
            if later.any():
                first, second = int(row[later][0]) + start, int(column[later][0])
                logger.warning(
                    "the text encoder cannot tell %r from %r, nor perhaps other names: they will "
                    "be found at the same places",
                    self.labels[first],
                    self.labels[second],
                )
                return


def _without_repeats(entries: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The first of all entries whose labels differ in white space and control characters only."""
    first: dict[str, tuple[str, ...]] = {}
    repeated: dict[str, None] = {}
    for entry in entries:
        key = clean_phrase(entry[0])
        if key in first:
            repeated[entry[0]] = None
        else:
            first[key] = entry
    if repeated:
        shown = ", ".join(repr(name) for name in list(repeated)[:5])
        more = ", ..." if len(repeated) > 5 else ""
        logger.warning("names given more than once are looked for once: %s%s", shown, more)
    return list(first.values())
