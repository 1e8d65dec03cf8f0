"""Checkpoints that are never half written and never unpickled."""

import os
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.weights import read_checkpoint, without_wrappers


class Checkpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, with safe files.

    A checkpoint is written to a temporary file, forced to the disk and renamed, so that a killed
    process leaves either the old file or the new one. Files are read without pickle; .safetensors
    files are read too. If a checkpoint has an average of the weights ("ema"), a new run starts from
    it.

    If a checkpointable is sharded over processes (``train.zero``), all of them must call `save`;
    only the main process writes.
    """

    _weights_only = False

    @property
    def needs_all_processes(self) -> bool:
        """Whether `save` waits for processes that do not call it."""
        return any(getattr(o, "is_sharded", False) for o in self.checkpointables.values())

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth with the model, all checkpointables and ``kwargs``."""
        for checkpointable in self.checkpointables.values():
            if getattr(checkpointable, "is_sharded", False):
                checkpointable.gather_state()
        if not self.save_dir or not self.save_to_disk:
            return
        data: dict[str, Any] = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info("Saving checkpoint to %s", path)
        for leftover in path.parent.glob(".*.pth.*"):
            leftover.unlink(missing_ok=True)
        write_whole(path, lambda file: torch.save(data, file))
        write_whole(path.with_name("last_checkpoint"), lambda file: file.write(path.name.encode()))

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a file into the model and the checkpointables; return its other entries.

        Parts of the model that the file lacks keep their weights; a warning names them.

        Raises:
            UserError: the file is missing, broken, needs pickle, or is of another model.
        """
        if path and "://" not in path and not os.path.isfile(path):
            raise UserError(f"{path}: there is no such checkpoint")
        self._weights_only = kwargs.get("checkpointables") == []  # resume_or_load, for a new run
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = read_checkpoint(filename)
        if self._weights_only and "ema" in content:
            content["model"] = content.pop("ema")
        content["model"] = without_wrappers(content["model"])
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        # No shape depends on the categories, so a wrong one means another model, not another task.
        try:
            incompatible = super()._load_model(checkpoint)
        except ValueError as error:  # an entry that is not a tensor
            raise UserError(f"the checkpoint holds no state dict of tensors: {error}") from error
        if incompatible.incorrect_shapes:
            name, loaded, own = incompatible.incorrect_shapes[0]
            raise UserError(
                f"the checkpoint does not fit the model of the config: {name} is {loaded}, "
                f"expected {own}"
            )
        if len(incompatible.missing_keys) == len(self.model.state_dict()):
            raise UserError("the checkpoint has no weights for the model of the config")
        return incompatible
