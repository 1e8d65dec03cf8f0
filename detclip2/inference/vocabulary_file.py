"""The .safetensors file of a vocabulary: tensors, and texts in its metadata."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole

FORMAT = "detclip2-vocabulary-2"


def write_vocabulary(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write the file, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    content = save(dict(tensors), {"format": FORMAT, **metadata})
    try:
        write_whole(Path(path), lambda file: file.write(content))
    except OSError as error:
        raise UserError(f"{path}: the vocabulary cannot be written here: {error}") from None


def read_vocabulary(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, float32, and the metadata that :func:`write_vocabulary` was given.

    Raises:
        UserError: the file is missing, damaged, of another version, or no vocabulary.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such vocabulary file")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: this vocabulary is damaged: {error}") from None
    written = metadata.pop("format", "")
    if written != FORMAT and written.startswith(FORMAT.rstrip("0123456789")):
        raise UserError(
            f"{path}: another version of detclip2 wrote this vocabulary ({written}; expected "
            f"{FORMAT}): encode the names again"
        )
    if written != FORMAT:
        raise UserError(f"{path}: this is no vocabulary (format {FORMAT})")
    return tensors, metadata
