"""Captions that a model writes: BLEU-4, CIDEr, and whether they name what is there."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.data import MetadataCatalog

from detclip2.data.datasets.catalog import register, without_images
from detclip2.data.io.coco_values import id_of
from detclip2.evaluation.checks import add_once, check_known
from detclip2.evaluation.cider import Words, cider_d
from detclip2.evaluation.protocol import Protocol
from detclip2.evaluation.streaming import StreamingEvaluator
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json

logger = logging.getLogger(__name__)

_WORD = re.compile(r"\w+")
# n't, 's and the like, and words with hyphens, points and commas inside.
_TOKEN = re.compile(r"n't\b|'(?:s|m|d|re|ve|ll)\b|\w+?(?=n't\b)|\w+(?:[-.,/]\w+)*")


class Reference(NamedTuple):
    """What people say of an image."""

    captions: tuple[str, ...]
    names: tuple[str, ...] | None
    """Of all objects in the image, if they are known."""


def caption_set(name: str, records: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Register records with ``captions`` as the data set `name`, replacing one of that name.

    Args:
        name: name in DatasetCatalog.
        records: of images, with ``captions`` and optionally the ``names`` of all objects.

    Returns:
        The records.

    Raises:
        UserError: there are none, an image appears twice, or one has no caption.
    """
    references: dict[Any, Reference] = {}
    for record in without_images(records):
        key = id_of(record["image_id"])
        captions = tuple(text for text in record["captions"] if words_of(text))
        if key in references or not captions:
            problem = "is there twice" if key in references else "has no caption"
            raise UserError(f"{name}: image {key} {problem}")
        names = record.get("names")
        references[key] = Reference(captions, None if names is None else tuple(names))
    if not references:
        raise UserError(f"{name}: there is no image with captions")
    register(
        name, lambda: records, evaluator_type="captions", thing_classes=[], references=references
    )
    return records


class CaptionEvaluator(StreamingEvaluator):
    """BLEU-4 and CIDEr of captions, and the precision and recall of names in them, in percent.

    BLEU-4 is that of sacrebleu, CIDEr is `cider_d`, both as in COCO's evaluation of captions. Words
    are those of `words_of`; COCO's evaluation splits them by a program in Java, whose rules are
    more, so its last digits may differ.

    A name counts once a caption, if the caption has one of its spellings that is not part of a
    longer one: "hot dog" does not name a dog.

    Args:
        dataset_name: registered by `caption_set`.
        spellings: name -> how captions may write it; None: names are not counted.
        output_dir: folder for ``caption_results.json`` and ``captions.json``, which is in the
            format of COCO's results: image_id and caption.

    Raises:
        UserError: the data set is not registered by `caption_set`, or has no names to count.
    """

    best_metric = "captions/CIDEr"

    def __init__(
        self,
        dataset_name: str,
        spellings: Mapping[str, Sequence[str]] | None = None,
        output_dir: str | Path | None = None,
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(metadata, "references"):
            raise UserError(f"{dataset_name!r} is not registered by caption_set")
        self.references: dict[Any, Reference] = metadata.references
        if spellings and any(ref.names is None for ref in self.references.values()):
            raise UserError(f"{dataset_name!r} has spellings of names, but images without `names`")
        self.spellings = spellings
        count = sum(len(reference.captions) for reference in self.references.values())
        content = json.dumps(sorted(self.references.items(), key=str))
        digest = hashlib.sha256(content.encode()).hexdigest()[:8]
        protocol = Protocol(
            dataset_name,
            f"{count} captions of {len(self.references)} images, sha256 {digest}",
            "one caption an image",
            "BLEU-4 and CIDEr-D, words split by rules",
            "none",
        )
        super().__init__(protocol, self.references.keys(), dataset_name, output_dir=output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all captions."""
        self._written: dict[Any, str] = {}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add the captions of a batch.

        Args:
            inputs: with ``image_id``.
            outputs: with ``caption``, a text.

        Raises:
            UserError: an image is not in the data set, or was added before.
        """
        for image, output in zip(inputs, outputs, strict=True):
            key = self.key_of(image)
            check_known(key, self._image_ids, self._annotations_file)
            _add(self._written, {key: output["caption"]})

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """{"captions": {"BLEU-4", "CIDEr", "name precision", "name recall"}} on the main process.

        An image without a caption has an empty one.

        Raises:
            UserError: an image was evaluated twice.
        """
        shares = self.gather(self._written)
        if shares is None:
            return None
        written: dict[Any, str] = {}
        for share in shares:
            _add(written, share)
        if missing := [key for key in self.references if key not in written]:
            logger.warning(
                "%s: %d of %d images have no caption, and count with an empty one",
                *(self.protocol.dataset, len(missing), len(self.references)),
            )
        written = {key: written.get(key, "") for key in self.references}
        captions = [words_of(written[key]) for key in self.references]
        people = [[words_of(text) for text in ref.captions] for ref in self.references.values()]
        scores = {
            "BLEU-4": 100 * bleu_4(captions, people),
            "CIDEr": 100 * cider_d(captions, people),
        }
        if self.spellings:
            scores.update(self._names(written, self.spellings))
        results = {"captions": scores}
        self.write("caption_results.json", results)
        if self._folder is not None:
            rows = [{"image_id": key, "caption": written[key]} for key in self.references]
            write_json(self._folder / "captions.json", rows)
        return results

    def _names(
        self, written: Mapping[Any, str], spellings: Mapping[str, Sequence[str]]
    ) -> dict[str, float]:
        """Precision and recall of all names of all captions together, in percent."""
        find = NameFinder(spellings)
        right = said = there = 0
        for key, reference in self.references.items():
            names, present = find(written[key]), set(reference.names or ())
            right += len(names & present)
            said += len(names)
            there += len(present)
        return {
            "name precision": 100 * right / max(said, 1),
            "name recall": 100 * right / max(there, 1),
        }


class NameFinder:
    """Finds names in captions, by the longest spelling at each place.

    Args:
        spellings: name -> how captions may write it.
    """

    def __init__(self, spellings: Mapping[str, Sequence[str]]) -> None:
        self.name_of = {
            tuple(_WORD.findall(spelling.lower())): name
            for name, of_name in spellings.items()
            for spelling in of_name
        }
        self.longest = max(map(len, self.name_of), default=0)

    def __call__(self, caption: str) -> set[str]:
        """The names in a caption."""
        words, found, place = _WORD.findall(caption.lower()), set(), 0
        while place < len(words):
            for length in range(self.longest, 0, -1):
                if name := self.name_of.get(tuple(words[place : place + length])):
                    found.add(name)
                    place += length - 1
                    break
            place += 1
        return found


def words_of(caption: str) -> list[str]:
    """The words of a caption in small letters and without marks, as the Penn treebank splits them.

    "The man's t-shirt isn't red." -> the, man, 's, t-shirt, is, n't, red.
    """
    return _TOKEN.findall(caption.lower().replace("\u2019", "'"))


def bleu_4(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """BLEU-4 of a data set, 0 to 1, with the closest length of a reference, without smoothing.

    Args:
        captions: one for each image, as words.
        references: for each image the captions of people, at least one.

    Raises:
        UserError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ModuleNotFoundError as error:
        raise UserError(
            "BLEU needs the Python package sacrebleu: pip install 'detclip2[captions]'"
        ) from error
    most = max(map(len, references))
    # sacrebleu wants the first captions of all images, then the second ones; None is none.
    columns: list[Any] = [
        [" ".join(of_image[i]) if i < len(of_image) else None for of_image in references]
        for i in range(most)
    ]
    bleu = BLEU(tokenize="none", smooth_method="none", force=True)
    return float(bleu.corpus_score([" ".join(words) for words in captions], columns).score) / 100


def _add(written: dict[Any, str], more: Mapping[Any, str]) -> None:
    add_once(written, more, lambda key: f"image {key} has two captions")
