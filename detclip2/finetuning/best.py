"""The best weights of a run, in its model folder."""

import os
from pathlib import Path

from torch import nn

from detclip2.utils.model_folder import WEIGHTS_NAME, save_weights
from detclip2.utils.weights import load_weights, read_checkpoint

BEST_NAME = "model_best.pth"  # Detectron2's
LAST_NAME = "model_last.safetensors"


def keep_best(model: nn.Module, folder: Path, iterations: int) -> int:
    """Give a finished run the weights of its best evaluation; the last ones get another name.

    Args:
        model: gets the best weights.
        folder: of the run, with its last weights.
        iterations: of the run.

    Returns:
        The number of iterations of the weights. Without a best evaluation, as where AP is
        undefined, or if it was the last one, they are the last ones.
    """
    best = folder / BEST_NAME
    done = iterations
    if best.is_file():
        done = min(read_checkpoint(best)["iteration"] + 1, iterations)
    if done < iterations:
        load_weights(model, best)
        os.replace(folder / WEIGHTS_NAME, folder / LAST_NAME)
        save_weights(model, folder)
    return done
