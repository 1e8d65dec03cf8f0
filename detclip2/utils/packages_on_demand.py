"""Packages of which a command needs few modules, imported by module.

``timm`` imports all of its models, and ``torchvision`` its data sets, models and transforms, with
the package itself. Half of a prediction's start would be spent on what it does not use.
"""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from detclip2.utils.compiler_on_demand import import_compiler_on_demand

# Package -> the module from which others take names at their own import, by the package's name.
PACKAGES = {
    "timm": "version",
    "timm.data": "constants",
    "timm.models": "",
    "torchvision": "",
    "torchvision.models": "",
    "torchvision.ops": "",
}


def import_on_demand() -> None:
    """Let the imports of these packages, and of torch's compiler, wait for their first use.

    For a process of ours, before torch is imported. Modules inside of them can be imported as
    usual; any other name of a package imports it whole. Where it is imported already, nothing is
    done.
    """
    import_compiler_on_demand()
    for name, module in PACKAGES.items():
        if name not in sys.modules:
            _put_off(name)
            if module:
                names = vars(importlib.import_module(f"{name}.{module}"))
                public = {key: value for key, value in names.items() if not key.startswith("_")}
                version = {k: v for k, v in names.items() if k == "__version__"}
                vars(sys.modules[name]).update(public | version)


def _put_off(name: str) -> None:
    """Put an empty package in the place of one, if that is installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Empty
    sys.modules[name] = package
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], last, package)


class _Empty(ModuleType):
    """A package whose own code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        # `inspect` asks every module for such names.
        if name.startswith("__") and name != "__version__":
            raise AttributeError(name)
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec = self.__spec__
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(self)
        return getattr(self, name)
