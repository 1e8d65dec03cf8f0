"""Objects by name, and names of objects."""

import pydoc

from fvcore.common.registry import Registry

__all__ = ["Registry", "locate"]


def locate(name: str):
    """The object with the dotted name `name`; an ImportError or another error if there is none."""
    found = pydoc.locate(name)
    if found is None:
        # pydoc stops at a name that is both a submodule and an attribute (torch.optim.sgd.SGD);
        # hydra tries both, and raises with the reason.
        from hydra._internal.utils import _locate

        found = _locate(name)
    return found


def _convert_target_to_string(target) -> str:
    """The shortest dotted name that `locate` resolves to `target`."""
    parts = target.__module__.split(".")
    for depth in range(1, len(parts)):
        candidate = ".".join([*parts[:depth], target.__qualname__])
        try:
            if locate(candidate) is target:
                return candidate
        except ImportError:
            continue
    return f"{target.__module__}.{target.__qualname__}"
