"""Saving and loading of models and of the state of a training."""

import logging
import os
import pickle
from urllib.parse import parse_qs, urlsplit

import torch
from fvcore.common.checkpoint import Checkpointer

from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

__all__ = ["DetectionCheckpointer"]


class DetectionCheckpointer(Checkpointer):
    """fvcore's Checkpointer, which saves in the main process only.

    A file may hold the dict that `save` makes, or bare weights. With `?matching_heuristics=True`
    after its name, a weight goes to the parameter whose name ends with the weight's.

    Unlike the real one, which reads .pkl files of Caffe2 and of the model zoo, it never unpickles,
    and refuses files that need it.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, **checkpointables):
        if save_to_disk is None:
            save_to_disk = comm.is_main_process()
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.path_manager = PathManager
        self._match_by_suffix = False

    def load(self, path, *args, **kwargs):
        """Load what `path` holds into the model and the checkpointables, and return the rest.

        Args:
            path: a file, or "" for nothing.
            args: see fvcore's Checkpointer.
            kwargs: see there.

        Raises:
            AssertionError: there is no such file.
            ValueError: an option after the file's name is not matching_heuristics.
            pickle.UnpicklingError: the file needs to be unpickled.
        """
        logging.getLogger(__name__).info(f"[DetectionCheckpointer] Loading from {path} ...")
        if path:
            url = urlsplit(path)
            options = parse_qs(url.query)
            self._match_by_suffix = options.pop("matching_heuristics", None) == ["True"]
            if options:
                raise ValueError(f"Unsupported query remaining: {options}, in {path}")
            path = self.path_manager.get_local_path(url._replace(query="").geturl())
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename):
        if os.path.splitext(filename)[1] in (".pkl", ".pyth"):
            raise pickle.UnpicklingError(
                f"{filename} is refused: it has to be unpickled, which can run any code. "
                "Convert it to a .pth file of tensors where you trust it."
            )
        loaded = torch.load(filename, map_location="cpu", weights_only=True)
        return loaded if "model" in loaded else {"model": loaded}

    def _load_model(self, checkpoint):
        if self._match_by_suffix:
            checkpoint["model"] = _match_by_suffix(self.model.state_dict(), checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        # The config has these, and checkpoints from before they were buffers do not.
        for name, _ in self.model.named_buffers(recurse=False):
            if name in ("pixel_mean", "pixel_std") and name in incompatible.missing_keys:
                incompatible.missing_keys.remove(name)
        # Old checkpoints have these, which are computed.
        incompatible.unexpected_keys[:] = [
            name
            for name in incompatible.unexpected_keys
            if "anchor_generator.cell_anchors" not in name
        ]
        return incompatible


def _match_by_suffix(model: dict, weights: dict) -> dict:
    """Rename each weight to the parameter whose name ends with the weight's; the longest wins."""
    logger = logging.getLogger(__name__)
    matched: dict[str, str] = {}  # weight to parameter
    for parameter in sorted(model):
        parts = parameter.split(".")
        suffixes = (".".join(parts[start:]) for start in range(len(parts)))  # longest first
        weight = next((suffix for suffix in suffixes if suffix in weights), None)
        if weight is None:
            continue
        if weights[weight].shape != model[parameter].shape:
            logger.warning(
                f"{weight} in the checkpoint is not loaded: its shape is {weights[weight].shape}, "
                f"and that of {parameter} in the model {model[parameter].shape}."
            )
            continue
        if weight in matched:
            raise ValueError(
                "Cannot match one checkpoint key to multiple keys in the model: "
                f"{weight} to {matched[weight]} and {parameter}."
            )
        matched[weight] = parameter
    if not matched:
        logger.warning("No weight of the checkpoint fits a parameter of the model.")
    return {matched.get(weight, weight): value for weight, value in weights.items()}
