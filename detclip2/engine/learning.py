"""What learns in a training: the whole model, some of its parts, or low-rank matrices (LoRA)."""

import re
import types
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from detclip2.modeling.layers.conv3x3 import Conv3x3
from detclip2.utils.errors import UserError, shown

# Layers that are called, in backbones, in text models and in the towers of ATSS: other parts of
# the models read the weights of their layers directly, which low-rank matrices would not change.
_CALLED = re.compile(r"backbone\.bottom_up\.|text_tower\.model\.|head\.(box|class)_tower\.")
MOST_RANK = 256


def set_up_learning(model: nn.Module, keys: DictConfig) -> None:
    """Freeze what does not learn by ``train.learn``, and add the matrices of ``train.lora``.

    What is frozen stays in evaluation mode: batch normalisation keeps its statistics, and nothing
    is dropped. What is frozen already stays so.

    Args:
        model: with the weights that the training starts from, unless it is resumed.
        keys: the node ``train``.

    Raises:
        UserError: a key is wrong, no parameter is left to learn, or peft is not installed.
    """
    learn, lora = (
        OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        for value in (keys.learn, keys.lora)
    )
    if learn is not None and lora is not None:
        raise UserError("train.learn and train.lora: give one of them")
    if lora is not None:
        add_lora(model, lora)
    elif learn is not None:
        learn_only(model, learn)
    else:
        return
    freeze_modes(model)


def learn_only(model: nn.Module, beginnings: Any) -> None:
    """Freeze the parameters whose names have none of some beginnings, a list.

    Raises:
        UserError: it is no such list, or no parameter is left to learn.
    """
    is_list = isinstance(beginnings, list) and beginnings
    if not is_list or not all(isinstance(one, str) and one for one in beginnings):
        raise UserError(
            f"train.learn is {shown(beginnings)}; expected a list of beginnings of names"
        )
    for name, parameter in model.named_parameters():
        if not name.startswith(tuple(beginnings)):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"train.learn is {beginnings}: no parameter of the model with such a name learns"
        )


def add_lora(model: nn.Module, settings: Any) -> None:
    """Freeze a model, and add low-rank matrices to layers of its backbone, text model and towers.

    LoRA (arXiv 2106.09685), by peft, with its factor alpha / rank at 1: the learning rate has the
    same effect. `detclip2.utils.low_rank` merges the matrices into the weights.

    Args:
        model: the model.
        settings: ``rank`` of the matrices.

    Raises:
        UserError: settings are wrong, peft is not installed, or there is no layer to add them to.
    """
    if not isinstance(settings, dict) or settings.keys() != {"rank"}:
        raise UserError(f"train.lora is {shown(settings)}; expected its rank alone: {{rank: 8}}")
    rank = settings["rank"]
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= MOST_RANK:
        raise UserError(f"train.lora.rank is {shown(rank)}; expected 1 to {MOST_RANK}")
    try:
        import peft
    except ImportError as error:
        raise UserError("LoRA needs peft: pip install 'detclip2[lora]'") from error
    layers = [name for name, module in model.named_modules() if _may_have_lora(name, module)]
    if not layers:
        raise UserError("train.lora: the model has no layer to add low-rank matrices to")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    # peft makes matrices of a layer's own class, with the arguments of torch's.
    fast = [module for module in model.modules() if isinstance(module, Conv3x3)]
    for conv in fast:
        conv.__class__ = nn.Conv2d  # type: ignore[assignment]
    peft.inject_adapter_in_model(config, model)
    for conv in fast:
        conv.__class__ = Conv3x3


def _may_have_lora(name: str, module: nn.Module) -> bool:
    is_layer = isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.groups == 1
    )
    return bool(is_layer and _CALLED.match(name) and module.weight.requires_grad)


def freeze_modes(model: nn.Module) -> None:
    """Keep every part that has parameters or buffers, and nothing that learns, in evaluation mode.

    It holds for later calls of ``train`` too, and in copies of the model.
    """
    if any(parameter.requires_grad for parameter in model.parameters()):
        for child in model.children():
            freeze_modes(child)
        return
    if [*model.parameters(), *model.buffers()]:
        # A method of this object, which a copy of it has as its own.
        model.__dict__["train"] = types.MethodType(_stay_in_evaluation, model)
        model.eval()


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    del mode
    return nn.Module.train(module, False)
