"""Two tables by data set name: the function that loads it, and its metadata."""

from collections import UserDict
from types import SimpleNamespace

__all__ = ["DatasetCatalog", "MetadataCatalog"]


class _NameTable(UserDict):
    def list(self) -> list:
        return [*self.data]

    def remove(self, name):
        del self[name]

    def __repr__(self):
        return f"{type(self).__name__.lstrip('_')}({', '.join(self.data)})"

    __str__ = __repr__


class _DatasetCatalog(_NameTable):
    """From a name to a function without arguments that returns the samples of that data set."""

    def register(self, name, func):
        assert callable(func), f"data set '{name}': register a function, not a {type(func)}"
        assert name not in self, f"data set '{name}' is registered already"
        self[name] = func

    def get(self, name):
        """Call the function registered under `name` (KeyError if there is none)."""
        if name not in self:
            raise KeyError(f"data set '{name}' is not registered; there are: {', '.join(self)}")
        return self[name]()


class Metadata(SimpleNamespace):
    """Attributes of one data set. Each can be set once; later only to the same value."""

    name: str = "N/A"

    def __getattr__(self, key):
        known = ", ".join(vars(self)) or "nothing"
        raise AttributeError(f"data set '{self.name}' has no metadata '{key}', only: {known}")

    def __setattr__(self, key, value):
        if hasattr(self, key):
            old = getattr(self, key)
            assert old == value, (
                f"metadata '{key}' of data set '{self.name}' is {old} and cannot become {value}"
            )
        else:
            super().__setattr__(key, value)

    def set(self, **values):
        for key, value in values.items():
            setattr(self, key, value)
        return self

    def get(self, key, default=None):
        return getattr(self, key, default)

    def as_dict(self) -> dict:
        return dict(vars(self))


class _MetadataCatalog(_NameTable):
    """From a name to the one `Metadata` object of that data set, made when first asked for."""

    def get(self, name) -> Metadata:
        assert name, "the name of a data set is empty"
        return self.setdefault(name, Metadata(name=name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
