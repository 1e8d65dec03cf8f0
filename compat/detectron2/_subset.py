"""Names that are not part of this package are reported in one line when they are used."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader

_PACKAGE = __package__


def not_here(name: str) -> str:
    return (
        f"{name} is not part of detectron2 0.6+subset, the stand-in; install the real Detectron2: "
        "pip install git+https://github.com/facebookresearch/detectron2"
    )


class _Loader(SourceFileLoader):
    """Runs a module of this package, and adds a `__getattr__` that explains missing names."""

    def exec_module(self, module):
        def absent(name):
            raise AttributeError(not_here(name))

        module.__getattr__ = absent
        # `from module import name` looks for a submodule only where there is a __path__. With one,
        # a missing name reaches _Finder, whose error, unlike an AttributeError, Python passes on.
        module.__dict__.setdefault("__path__", [])
        super().exec_module(module)


class _Finder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(_PACKAGE + "."):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None:
            # Not a ModuleNotFoundError: in `from package import name` Python would replace it by
            # its own message. pydoc.locate reads `name` to see that the error is about this name.
            raise ImportError(not_here(fullname.rpartition(".")[2]), name=fullname)
        if isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Put the finder first, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
