"""Torch's compiler, imported where it is used and not before.

torchvision, timm and transformers import ``torch._dynamo`` to mark functions and for two helpers
that detection never calls. Its import, with inductor and triton, takes about a second.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
# Decorators that mark functions for the compiler and return them.
_MARKS = ("allow_in_graph", "assume_constant_result", "disable")
# Module -> what other packages take from it at their own import, and a command never calls.
_HELPERS = {
    f"{COMPILER}.utils": "is_compile_supported",
    f"{COMPILER}._trace_wrapped_higher_order_op": "TransformGetItemToIndex",
}


def import_compiler_on_demand() -> None:
    """Put placeholders in the compiler's place, which import it when they are used.

    For a process of ours that compiles nothing, before these packages are imported: what they mark
    for the compiler stays without marks. Where it is imported already, nothing is done.
    """
    if not any(name in sys.modules for name in (COMPILER, *_HELPERS)):
        for name in (COMPILER, *_HELPERS):
            sys.modules[name] = _Placeholder(name)


class _Placeholder(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name in _MARKS and self.__name__ == COMPILER:
            return _unmarked
        if name == _HELPERS.get(self.__name__):
            return lambda *args, **kwargs: getattr(_real(self.__name__), name)(*args, **kwargs)
        # `inspect` asks every module for such names; `import torch._dynamo.config` for one.
        if name.startswith("__") and (self.__name__, name) != (COMPILER, "__path__"):
            raise AttributeError(name)
        return getattr(_real(self.__name__), name)


def _unmarked(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """A decorator, with or without arguments, that returns the function."""
    return (lambda decorated: decorated) if function is None else function


def _real(name: str) -> ModuleType:
    """A module of the compiler, instead of the placeholders."""
    for module in (COMPILER, *_HELPERS):
        if isinstance(sys.modules.get(module), _Placeholder):
            del sys.modules[module]
    return importlib.import_module(name)
