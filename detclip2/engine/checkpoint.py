"""Checkpoints that are never half written and never unpickled."""

import pickle
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from detclip2.errors import UserError
from detclip2.files import write_whole
from detclip2.modeling.weights import read_weights


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with safe files.

    A checkpoint is written beside its place, forced to the disk, and renamed, so that a process
    that is killed leaves either the old file or the new one. Files are read without pickle;
    .safetensors files are read too.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth with the model, all checkpointables and ``kwargs``."""
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        write_whole(path, lambda file: torch.save(data, file))
        write_whole(path.with_name("last_checkpoint"), lambda file: file.write(path.name.encode()))

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".safetensors"):
            return {"model": read_weights(filename)}
        try:
            content = torch.load(filename, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UserError(
                f"{filename} needs pickle, which can run any code when loaded, so it is refused: "
                "save its state dict of tensors as .safetensors"
            ) from error
        return content if "model" in content else {"model": content}
