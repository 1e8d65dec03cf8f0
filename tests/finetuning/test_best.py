import pytest
import torch
from torch import nn

from detclip2.finetuning.best import BEST_NAME, LAST_NAME, keep_best
from detclip2.utils.model_folder import WEIGHTS_NAME, save_weights
from detclip2.utils.weights import read_weights


def linear(value):
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, value)
    return model


@pytest.mark.parametrize(
    ("iteration", "done", "kept"),
    [
        (None, 10, 9.0),  # AP was never defined
        (5, 6, 5.0),  # Detectron2 counts from 0 ...
        (10, 10, 9.0),  # ... but the last evaluation comes after the last iteration
        (9, 10, 9.0),
    ],
)
def test_the_model_folder_has_the_weights_of_the_best_evaluation(tmp_path, iteration, done, kept):
    model = linear(9.0)
    save_weights(model, tmp_path)
    if iteration is not None:
        checkpoint = {"model": linear(5.0).state_dict(), "iteration": iteration}
        torch.save(checkpoint, tmp_path / BEST_NAME)
    for _ in range(2):  # also if a finished run is resumed
        assert keep_best(model, tmp_path, 10) == done
        assert model.weight.item() == read_weights(tmp_path / WEIGHTS_NAME)["weight"].item() == kept
        assert (tmp_path / LAST_NAME).is_file() is (done < 10)
        if done < 10:
            assert read_weights(tmp_path / LAST_NAME)["weight"].item() == 9.0
        model = linear(9.0)  # a resumed run writes its last weights again
        save_weights(model, tmp_path)
