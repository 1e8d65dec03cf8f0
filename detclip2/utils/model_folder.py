"""Model folders: ``config.yaml`` and ``model.safetensors``, as trainings write them."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from detclip2.resources import RESOURCES
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

if TYPE_CHECKING:
    from torch import nn

CONFIG_NAME = "config.yaml"
WEIGHTS_NAME = "model.safetensors"
TEXT_FOLDER = "text_model"  # of some folders: config and tokenizer of the text model
KNOWS = "knows: "
VOCABULARY_NAME = "vocabulary.safetensors"  # of some folders: the names that the model knows
EXAMPLES_NAME = "examples.safetensors"  # of some folders: makes rows of example boxes
ENVIRONMENT_VARIABLE = "DETCLIP2_MODEL"
SHIPPED = {
    name: RESOURCES / "models" / name for name in ("photo_nano", "emoji_nano", "glipv2_nano")
}
"""Name -> folder of the models that ship with the package."""
DEFAULT = "photo_nano"


def read_model_folder(model: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The paths of the config and the weights of a model.

    Args:
        model: a folder, or the name of a model in `SHIPPED`. A text that is such a name means the
            shipped model; a ``Path``, or a text with a separator, is always a folder.

    Raises:
        UserError: the folder or one of the two is missing.
    """
    folder = SHIPPED.get(model, Path(model)) if isinstance(model, str) else Path(model)
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such model folder{_meant(str(model))}")
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: this model folder has no {name} (it holds {CONFIG_NAME} and "
                f"{WEIGHTS_NAME})"
            )
    return folder / CONFIG_NAME, folder / WEIGHTS_NAME


def _meant(name: str) -> str:
    """The end of a message about a name of no model: which one is meant, or which ones ship."""
    if Path(name).name != name:
        return ""
    close = difflib.get_close_matches(name, SHIPPED, n=1)
    return f"; did you mean {close[0]!r}" if close else f"; models that ship: {', '.join(SHIPPED)}"


def folder_of(config: str | os.PathLike[str], weights: str | os.PathLike[str]) -> Path | None:
    """The model folder that has this config and these weights; None if they are of no such one."""
    folder = Path(config).parent
    is_one = (Path(config), Path(weights)) == (folder / CONFIG_NAME, folder / WEIGHTS_NAME)
    return folder if is_one else None


def save_weights(model: "nn.Module", folder: str | os.PathLike[str]) -> Path:
    """Write the model's weights atomically into a folder; return their path.

    Low-rank matrices of LoRA are merged into them.
    """
    from safetensors.torch import save  # the names and checks of folders need no torch

    from detclip2.utils.low_rank import merged

    path = Path(folder) / WEIGHTS_NAME
    state = {name: tensor.contiguous() for name, tensor in merged(model.state_dict()).items()}
    write_whole(path, lambda file: file.write(save(state)))
    return path


def knowledge(config: str | os.PathLike[str]) -> str:
    """The sentence of a config.yaml on what its model has learnt, ``knows``; "" if it has none."""
    for line in Path(config).read_text("utf-8", "replace").splitlines():
        if line.startswith(KNOWS):
            return line.removeprefix(KNOWS).strip().strip("'\"")
    return ""


def default_model() -> tuple[Path, Path]:
    """The paths of the default config and weights.

    Those of the model that the environment variable ``DETCLIP2_MODEL`` names, as
    `read_model_folder` understands it, else of the shipped model `DEFAULT`.

    Raises:
        UserError: the environment variable names no model folder.
    """
    if model := os.environ.get(ENVIRONMENT_VARIABLE):
        try:
            return read_model_folder(model)
        except UserError as error:
            raise UserError(f"{ENVIRONMENT_VARIABLE} is set: {error}") from None
    return read_model_folder(DEFAULT)


def is_model(
    config: str | os.PathLike[str] | Mapping[str, Any],
) -> TypeGuard[str | os.PathLike[str]]:
    """Whether this means a model folder, or the name of a shipped model, and not a config."""
    if isinstance(config, Mapping):
        return False
    return config in SHIPPED or os.path.isdir(config) or not Path(config).suffix
