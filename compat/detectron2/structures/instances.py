"""Annotations or predictions of one image."""

import itertools
from typing import Any

import torch

__all__ = ["Instances"]


class Instances:
    """Fields of one length, the number of objects, that are read and set as attributes.

    Indexing, `to` and `cat` apply to all fields. Attributes that start with `_` are not fields.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any):
        """`image_size` is (height, width); further keywords are fields."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._image_size

    def __setattr__(self, name: str, val: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, val)
        else:
            self.set(name, val)

    def __getattr__(self, name: str) -> Any:
        # `_fields` is missing while an object is being copied.
        if name.startswith("_") or name not in self._fields:
            raise AttributeError(f"These Instances have no field '{name}'.")
        return self._fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; its length has to be that of the others."""
        length = len(value)
        if self._fields:
            assert len(self) == length, (
                f"Adding a field of length {length} to a Instances of length {len(self)}"
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        return name in self._fields

    def remove(self, name: str) -> None:
        del self._fields[name]

    def get(self, name: str) -> Any:
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields themselves: changes of the dict change this object."""
        return self._fields

    def _map(self, function) -> "Instances":
        mapped = Instances(self._image_size)
        for name, value in self._fields.items():
            mapped.set(name, function(value))
        return mapped

    def to(self, *args: Any, **kwargs: Any) -> "Instances":
        """Call `to` of the fields that have it."""
        return self._map(lambda value: value.to(*args, **kwargs) if hasattr(value, "to") else value)

    def __getitem__(self, item: int | slice | torch.BoolTensor) -> "Instances":
        """Apply an index to all fields; an int gives Instances of length 1."""
        if type(item) is int:
            if not -len(self) <= item < len(self):
                raise IndexError(f"Index {item} is out of range for {len(self)} instances.")
            item = slice(item, None, len(self))  # a step that long leaves one
        return self._map(lambda value: value[item])

    def __len__(self) -> int:
        for value in self._fields.values():
            return value.__len__()  # in tracing it is a tensor, which len() would refuse
        raise NotImplementedError("Instances without a field have no length.")

    def __iter__(self):
        raise NotImplementedError("Instances cannot be iterated over: index them.")

    @staticmethod
    def cat(instance_lists: list["Instances"]) -> "Instances":
        """Concatenate; all must have the same image size, and the fields of the first."""
        assert all(isinstance(instances, Instances) for instances in instance_lists)
        assert len(instance_lists) > 0
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        if not isinstance(first.image_size, torch.Tensor):  # it is one in tracing
            assert all(instances.image_size == first.image_size for instances in instance_lists)
        joined = Instances(first.image_size)
        for name in first.get_fields():
            joined.set(name, _cat_values([instances.get(name) for instances in instance_lists]))
        return joined

    def __str__(self) -> str:
        height, width = self._image_size
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return (
            f"{type(self).__name__}(num_instances={len(self)}, image_height={height}, "
            f"image_width={width}, fields=[{fields}])"
        )

    __repr__ = __str__


def _cat_values(values: list):
    kind = type(values[0])
    if isinstance(values[0], torch.Tensor):
        return torch.cat(values, dim=0)
    if isinstance(values[0], list):
        return list(itertools.chain(*values))
    if hasattr(kind, "cat"):
        return kind.cat(values)
    raise ValueError(f"Unsupported type {kind} for concatenation")
