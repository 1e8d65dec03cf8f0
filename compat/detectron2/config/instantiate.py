"""Build objects from their descriptions."""

import logging
from collections.abc import Mapping
from dataclasses import is_dataclass

from omegaconf import DictConfig, ListConfig, OmegaConf

from detectron2.utils.registry import locate

__all__ = ["instantiate"]


def instantiate(cfg):
    """Call what `_target_` names, with the other keys as keyword arguments, from the inside out.

    Args:
        cfg: a mapping with `_target_` (a callable, its dotted name, or a description of it); a
            list or ListConfig of such; or anything else, which is returned as it is.

    Returns:
        The object.
    """
    if isinstance(cfg, ListConfig):
        return ListConfig([instantiate(item) for item in cfg], flags={"allow_objects": True})
    if isinstance(cfg, list):
        return [instantiate(item) for item in cfg]
    if isinstance(cfg, DictConfig) and is_dataclass(cfg._metadata.object_type):
        return OmegaConf.to_object(cfg)
    if not (isinstance(cfg, Mapping) and "_target_" in cfg):
        return cfg
    # Iterating over items, not hydra's instantiate: interpolations resolve where they stand.
    arguments = {name: instantiate(value) for name, value in cfg.items()}
    target = arguments.pop("_target_")
    name = target
    if isinstance(target, str):
        target = locate(name)
    assert callable(target), f"_target_ {name} does not define a callable object"
    try:
        return target(**arguments)
    except TypeError:
        logging.getLogger(__name__).error(f"Error when instantiating {name}!")
        raise
