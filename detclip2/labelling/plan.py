"""What decides the outcome of a run: all its parts, and every continuation, must agree on it."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detclip2.data.io.image_item import ImageItem
from detclip2.evaluation.protocol import file_hash
from detclip2.inference.vocabulary import Vocabulary
from detclip2.labelling.image_list import ImageList, write_image_list
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.utils.json_text import parse_json

FORMAT = "detclip2-labels-1"
FILE, IMAGES = "plan.json", "images.jsonl"


@dataclass(frozen=True)
class Plan:
    """What a run detects, with what, and in which images; ``plan.json`` of its folder."""

    labels: tuple[str, ...]
    """C labels, as the user wrote them."""
    vocabulary: str
    """Hash of all of the vocabulary: texts, thresholds, embeddings."""
    model: str
    """Hashes of config and weights."""
    settings: dict[str, Any]
    """The four settings of the detections, and ``tile``."""
    images: int
    """Number of images, each counted once."""
    image_list: str
    """Hash of the list of images."""
    repeated: int = 0
    """Number of images that were listed again, and are done once."""

    def differences(self, other: "Plan") -> str:
        """What another plan has that this one has not, in a sentence; "" if they are equal."""
        found = []
        if self.labels != other.labels:
            found.append(_of_labels(self.labels, other.labels))
        elif self.vocabulary != other.vocabulary:
            found.append(
                "the vocabulary has other embeddings, prompts or thresholds, for the same labels"
            )
        if self.model != other.model:
            found.append(f"the model was {self.model} and is {other.model}")
        for key in sorted({*self.settings, *other.settings}):
            before, now = self.settings.get(key), other.settings.get(key)
            if before != now:
                found.append(f"{key} was {_plain(before)} and is {_plain(now)}")
        if self.images != other.images:
            found.append(f"there were {self.images:,} images and are {other.images:,}")
        elif self.image_list != other.image_list:
            found.append("there are other images, or the same in another order")
        return "; ".join(found)


def prepare(output: Path, items: Iterable[ImageItem], plan: Mapping[str, Any]) -> Plan:
    """Begin a run in a folder, or check that it goes on as it was begun.

    Parts that begin at the same time write the same.

    Args:
        output: the folder.
        items: all images of the run, also those of other parts.
        plan: the fields of `Plan` but those of the images.

    Raises:
        UserError: the folder holds another run, or files that are none; it cannot be written; there
            are no images.
    """
    path = output / FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(_foreign(output)):
            raise UserError(
                f"--output {output}: this folder has files, but no {FILE}: name a new one"
            )
        # Parts in containers on several machines may have the same process id.
        unique = uuid.uuid4().hex
        new, new_plan = (output / f".{name}.{unique}" for name in (IMAGES, FILE))
        repeated, identity = write_image_list(new, items)
        count = len(ImageList(new))
        now = Plan(**plan, images=count, image_list=identity, repeated=repeated)
        if not count:
            new.unlink()
            raise UserError("there are no images to label")
        if path.exists():
            new.unlink()
        else:
            new.replace(output / IMAGES)
            write_json(new_plan, {"format": FORMAT, **asdict(now)})
            new_plan.replace(path)
    except OSError as error:
        raise UserError(f"--output {output}: cannot be used: {error.strerror or error}") from None
    begun = read_plan(output)
    if differences := begun.differences(now):
        raise UserError(
            f"--output {output}: this folder has a run that differs: {differences}. Repeat the "
            "command that began it, or name a new folder"
        )
    if file_hash(output / IMAGES) != begun.image_list:
        raise UserError(f"{output / IMAGES}: is not the list that this run began with")
    return begun


def read_plan(output: Path) -> Plan:
    """The plan of a folder that `prepare` has made.

    Raises:
        UserError: there is none, or it is damaged or of another version.
    """
    path = output / FILE
    try:
        content = parse_json(path.read_bytes())
        if content.pop("format") != FORMAT:
            raise UserError(f"{path}: another version of detclip2 wrote this run")
        return Plan(**{**content, "labels": tuple(content["labels"])})
    except FileNotFoundError:
        raise UserError(f"{output}: there is no run of `detclip2 label` in this folder") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is damaged ({error!r})") from None


def model_identity(config: str | os.PathLike[str], weights: str | os.PathLike[str]) -> str:
    """A model by the hashes of its files."""
    files = Path(weights), Path(config)
    return " of ".join(f"{file.name} {file_hash(file)}" for file in files)


def vocabulary_identity(vocabulary: Vocabulary) -> str:
    """A hash of all fields of a vocabulary, before it is encoded for a model."""
    digest = hashlib.sha256()
    for name, value in vars(vocabulary).items():
        digest.update(json.dumps([name, value], default=_exact).encode())
    return digest.hexdigest()[:16]


def _exact(value: Any) -> Any:
    """A value as json, without loss: the repr of a long array has not all of its numbers."""
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return value.tobytes().hex()
    return vars(value) if is_dataclass(value) else repr(value)


def _foreign(output: Path) -> Iterable[Path]:
    """Files that no other part has made that begins just now."""
    own = (IMAGES, FILE)
    return (path for path in output.iterdir() if not path.name.lstrip(".").startswith(own))


def _of_labels(before: tuple[str, ...], now: tuple[str, ...]) -> str:
    gone = [label for label in before if label not in set(now)]
    new = [label for label in now if label not in set(before)]
    what = [f"without {gone[0]!r}"] if gone else []
    what += [f"with {new[0]!r}"] if new else []
    how = " and ".join(what) or "in another order"
    return f"the vocabulary had {len(before):,} names and has {len(now):,} ({how})"


def _plain(value: Any) -> str:
    return "not set" if value is None else str(value)
