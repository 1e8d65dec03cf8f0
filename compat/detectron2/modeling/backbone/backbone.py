"""The interface of backbones."""

from abc import ABCMeta, abstractmethod

from torch import nn

from detectron2.layers import ShapeSpec

__all__ = ["Backbone"]


class Backbone(nn.Module, metaclass=ABCMeta):
    """From images to named feature maps.

    A subclass defines `forward`, and either `output_shape` or the list `_out_features` with the
    dicts `_out_feature_channels` and `_out_feature_strides`.
    """

    @abstractmethod
    def forward(self, *args, **kwargs):
        """Feature maps by name."""

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each feature map."""
        channels, strides = self._out_feature_channels, self._out_feature_strides
        return {
            name: ShapeSpec(channels=channels[name], stride=strides[name])
            for name in self._out_features
        }

    @property
    def size_divisibility(self) -> int:
        """Height and width of images must be multiples of it; 0: any size."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further arguments of ImageList.from_tensors: "size_divisibility", "square_size"."""
        return {}
