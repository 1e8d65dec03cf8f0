"""Model folders: ``config.yaml`` and ``model.safetensors``, as trainings write them."""

import os
from pathlib import Path

from safetensors.torch import save
from torch import nn

from detclip2.resources import RESOURCES
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

CONFIG_NAME = "config.yaml"
WEIGHTS_NAME = "model.safetensors"
ENVIRONMENT_VARIABLE = "DETCLIP2_MODEL"
SHIPPED = RESOURCES / "models" / "emoji_nano"


def read_model_folder(folder: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The paths of the config and the weights in a folder.

    Raises:
        UserError: the folder or one of the two is missing.
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise UserError(f"{folder}: there is no such model folder")
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder}: this model folder has no {name} (it holds {CONFIG_NAME} and "
                f"{WEIGHTS_NAME})"
            )
    return folder / CONFIG_NAME, folder / WEIGHTS_NAME


def save_weights(model: nn.Module, folder: str | os.PathLike[str]) -> Path:
    """Write the model's weights atomically into a folder; return their path."""
    path = Path(folder) / WEIGHTS_NAME
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, lambda file: file.write(save(state)))
    return path


def default_model() -> tuple[Path, Path]:
    """The paths of the default config and weights.

    The folder in the environment variable ``DETCLIP2_MODEL``, else the model that ships with the
    package.

    Raises:
        UserError: the environment variable names no model folder.
    """
    if folder := os.environ.get(ENVIRONMENT_VARIABLE):
        try:
            return read_model_folder(folder)
        except UserError as error:
            raise UserError(f"{ENVIRONMENT_VARIABLE} is set: {error}") from None
    return read_model_folder(SHIPPED)
