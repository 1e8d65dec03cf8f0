"""timm's models by name, of which only the module of the family is imported."""

import importlib
from typing import Any

from torch import nn

# The families of this project's configs: the beginning of a name -> timm's module.
FAMILIES = {
    "resnet": "resnet",
    "swin_": "swin_transformer",
    "tf_efficientnet_": "efficientnet",
}


def timm_model(name: str, **arguments: Any) -> nn.Module:
    """``timm.create_model``, which imports all models for one; no weights are loaded."""
    _import_family(name)
    from timm.models._factory import create_model

    return create_model(name, pretrained=False, **arguments)


def is_timm_model(name: str) -> bool:
    """Whether timm has a model of this name."""
    _import_family(name)
    from timm.models._registry import is_model

    return is_model(name)


def _import_family(name: str) -> None:
    for beginning, module in FAMILIES.items():
        if name.startswith(beginning):
            importlib.import_module(f"timm.models.{module}")
            return
    from timm import list_models  # noqa: F401  (imports all of them)
