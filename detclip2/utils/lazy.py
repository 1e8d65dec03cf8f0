"""Public names of a package, imported on first use, so that the package imports quickly."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from detclip2.utils.errors import missing_package
from detclip2.utils.quiet import without_upstream_warnings


def lazy_names(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Functions ``__getattr__`` and ``__dir__`` of a package with lazy names.

    Args:
        package: its ``__name__``.
        homes: name -> the module that defines it, relative to the package. A name must differ from
            all submodules, since an imported submodule would replace it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            with without_upstream_warnings():
                module = importlib.import_module(f"{package}.{homes[name]}")
        except ModuleNotFoundError as error:
            if not (sentence := missing_package(error)):
                raise
            raise ModuleNotFoundError(sentence, name=error.name) from None
        value = getattr(module, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
