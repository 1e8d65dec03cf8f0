"""A small file with what a tuning changed in a model: ``finetune --tune head``, prompt or lora."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.json_text import parse_json
from detclip2.utils.low_rank import merged, plain_names

NAME = "tuned.safetensors"
FORMAT = "detclip2-tuned-1"
_COMPARED = 64  # values of each tensor


@dataclass(frozen=True)
class Tuned:
    """What learned, to be put into the model that it started from."""

    state: dict[str, Tensor]
    """Entries of the tuned model that differ: weights, offsets of names, or matrices of LoRA."""
    names: tuple[str, ...]
    """Names with a learned offset of their text, if any."""
    base: str
    """`fingerprint` of all other entries."""

    @classmethod
    def of(cls, model: nn.Module, names: tuple[str, ...] = ()) -> "Tuned":
        """What learned in a model: its parameters that are not frozen.

        Args:
            model: as it was trained.
            names: those with an offset.
        """
        learned = [name for name, p in model.named_parameters() if p.requires_grad]
        state = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        others = plain_names({name: t for name, t in state.items() if name not in learned})
        return cls({name: state[name] for name in learned}, names, fingerprint(others))

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        metadata = {"format": FORMAT, "names": json.dumps(self.names), "base": self.base}
        content = save(self.state, metadata)
        write_whole(path, lambda file: file.write(content))

    @classmethod
    def read(cls, path: Path) -> "Tuned":
        """Read a file.

        Raises:
            UserError: it is missing, damaged, or another file.
        """
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise UserError(f"{path} is no file of a tuning, such as OUT/{NAME}")
                names = parse_json(metadata["names"].encode())
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("its names are no list of texts")
            return cls(state, tuple(names), metadata["base"])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise UserError(f"{path} cannot be read as the file of a tuning: {error}") from None

    def put_into(self, model: Any, path: Path) -> None:
        """Change a model, with its weights, to the tuned one.

        Args:
            model: an `OpenVocabularyModel`, as the tuning began with it.
            path: of the file, for messages.

        Raises:
            UserError: the model is another one.
        """
        own = model.state_dict()
        if fingerprint({n: t for n, t in own.items() if n not in self.state}) != self.base:
            raise UserError(
                f"{path} belongs to another model: give the one that the tuning started from"
            )
        if self.names:
            model.text_encoder.add_prompt(self.names)
        try:
            model.load_state_dict(merged({**model.state_dict(), **self.state}))
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{path} does not fit the model: {error}") from error


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """A hash of names, shapes and the first values of each tensor, as float32."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        values = tensor.detach().flatten()[:_COMPARED].to("cpu", torch.float32)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()
