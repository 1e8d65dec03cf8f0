"""Any timm feature extractor as a Detectron2 backbone, and the feature pyramid on top of it."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from omegaconf import ListConfig
from torch import Tensor, nn

from detclip2.modeling.layers.conv3x3 import Conv3x3
from detclip2.modeling.layers.drop_block import DropBlock
from detclip2.modeling.layers.fast_conv import fold_norms, use_fast_depthwise
from detclip2.modeling.timm_models import is_timm_model, timm_model
from detclip2.utils.errors import UserError
from detclip2.utils.weights import State, load_weights

STRIDES = (8, 16, 32)
_LOADING = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}


class TimmBackbone(Backbone):
    """The features of a timm model at strides 8, 16 and 32, named "c3", "c4", "c5".

    Swin (paper, sec. 3.3) accepts any input whose sides are multiples of 32: attention masks are
    built for the size of the input, and windows are shifted in every stage, as in detection
    codebases. ``norm_outputs`` adds a LayerNorm to each output, because a Swin stage ends in an
    unnormalised residual stream.

    Args:
        name: a timm model name, e.g. "swin_tiny_patch4_window7_224".
        drop_path_rate: stochastic depth; 0.2 in the paper (Tab. 9).
        norm_outputs: LayerNorm on each output, over channels.
        gradient_checkpointing: save memory by a second forward pass (paper, sec. 4.1).
        frozen: beginnings of names of the extractor's parameters that do not learn, such as
            ("conv_stem", "blocks.0"). Stages in front of the first that learns cost no backward
            pass.
        freeze_norms: batch normalisation keeps the statistics and weights of ``weights``, as in
            Detectron2's FrozenBatchNorm2d; small batches would spoil them.
        pad_before_roll: in Swin, pad features to whole windows before they are shifted, as Swin's
            authors do and so GLIP, instead of after it, as timm does. Without this, weights of one
            order give other features in the other, unless windows divide the features exactly.
        weights: a .safetensors or .pth file of a whole timm model of this name, or of its features;
            "" for random ones.
        **timm_args: passed to ``timm.create_model``.

    Raises:
        UserError: timm has no model of this name, an argument would load weights, or the weights do
            not fit the model.
        ValueError: the model has no features at one of the strides.
    """

    def __init__(
        self,
        name: str,
        *,
        drop_path_rate: float = 0.2,
        norm_outputs: bool = True,
        gradient_checkpointing: bool = False,
        frozen: Sequence[str] = (),
        freeze_norms: bool = False,
        pad_before_roll: bool = False,
        weights: str = "",
        **timm_args: Any,
    ) -> None:
        super().__init__()
        _check_source(name, timm_args)
        # PyTorch does not accept OmegaConf's lists.
        timm_args = {
            key: tuple(value) if isinstance(value, ListConfig) else value
            for key, value in timm_args.items()
        }
        if name.startswith("swin"):
            timm_args = {"strict_img_size": False, "always_partition": True, **timm_args}
        extractor: Any = timm_model(
            name, features_only=True, drop_path_rate=drop_path_rate, **timm_args
        )
        # Features are looked up by stride: the first one has 4 in Swin, 2 in a convolutional
        # network.
        strides = extractor.feature_info.reduction()
        missing = [stride for stride in STRIDES if stride not in strides]
        if missing:
            raise ValueError(f"timm model {name!r} has no features at strides {missing}: {strides}")
        self._chosen = [strides.index(stride) for stride in STRIDES]
        extractor.set_grad_checkpointing(gradient_checkpointing)
        for module in extractor.modules():
            # timm does not fuse Swin's attention; fused, it gives the same result faster.
            if hasattr(module, "fused_attn"):
                module.fused_attn = True
        if name.startswith("swin_"):
            _use_swin_block(extractor, pad_before_roll)
        use_fast_depthwise(extractor)
        all_channels = extractor.feature_info.channels()
        channels = [all_channels[i] for i in self._chosen]
        self.extractor: nn.Module = extractor
        self._out_features = ["c3", "c4", "c5"]
        self._out_feature_strides = dict(zip(self._out_features, STRIDES, strict=True))
        self._out_feature_channels = dict(zip(self._out_features, channels, strict=True))
        self._channels_last = getattr(self.extractor, "output_fmt", "NCHW") == "NHWC"
        self.norms = nn.ModuleList(
            nn.LayerNorm(c) if norm_outputs else nn.Identity() for c in channels
        )
        if weights:
            load_weights(
                self.extractor,
                weights,
                convert=lambda state: self._extractor_state(state, name, timm_args),
            )

        self._frozen_norms = [
            module
            for module in self.extractor.modules()
            if freeze_norms and isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        for norm in self._frozen_norms:
            norm.eval().requires_grad_(False)
        if freeze_norms:
            fold_norms(self.extractor)
        for parameter_name, parameter in self.extractor.named_parameters():
            if parameter_name.startswith(tuple(frozen)):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Frozen norms stay in evaluation mode."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def _extractor_state(self, state: State, name: str, timm_args: dict[str, Any]) -> State:
        """The weights of a whole timm model as those of the extractor.

        What the whole model has behind the features, such as a classifier, is dropped.
        """
        with torch.device("meta"):
            # A file may have a classifier where the config asks for none.
            whole = timm_model(name, **{**timm_args, "num_classes": 1})
        # timm's conversion of checkpoints from other sources, e.g. Swin's authors.
        convert = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            try:
                state = convert(state, whole)
            except (AttributeError, KeyError, RuntimeError) as error:
                raise UserError(
                    f"the weights file of the backbone does not hold {name}: {error}"
                ) from error
        # An extractor's modules are not nested: "layers.0.blocks" becomes "layers_0.blocks".
        own = {key.replace(".", "_"): key for key in self.extractor.state_dict()}
        behind = {key for key in whole.state_dict() if key.replace(".", "_") not in own}
        return {
            own.get(key.replace(".", "_"), key): value
            for key, value in state.items()
            if key not in behind
        }

    @property
    def size_divisibility(self) -> int:
        """Padded sides of inputs are multiples of it, px."""
        return STRIDES[-1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {"c3": (B, C3, H/8, W/8), "c4": ..., "c5": ...}."""
        outputs = {}
        features = self.extractor(images)
        for name, norm, chosen in zip(self._out_features, self.norms, self._chosen, strict=True):
            x = features[chosen]
            if isinstance(norm, nn.LayerNorm):
                x = norm(x if self._channels_last else x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            elif self._channels_last:
                x = x.permute(0, 3, 1, 2)
            outputs[name] = x
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each output."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


def _check_source(name: str, timm_args: dict[str, Any]) -> None:
    """Refuse a name or an argument with which timm would fetch or load a file.

    timm takes "hf-hub:..." for a repository of the hub, and "local-dir:..." for a folder.

    Raises:
        UserError: see above.
    """
    if ":" in name or "/" in name or not is_timm_model(name):
        raise UserError(f"backbone: timm has no model {name!r}; timm.list_models() gives the names")
    for key in _LOADING & timm_args.keys():
        raise UserError(f"backbone: {key!r} is not taken: give a file as `weights`")


def _use_swin_block(extractor: nn.Module, pad_before_roll: bool) -> None:
    from detclip2.modeling.layers.swin_block import SwinBlock, SwinTransformerBlock

    for module in extractor.modules():
        if type(module) is SwinTransformerBlock:
            module.__class__ = SwinBlock
            module.pad_before_roll = pad_before_roll  # type: ignore[assignment]


class TopBlock(LastLevelP6P7):
    """P6 and P7 from P5, on CPUs in full precision.

    With torch 2.14, the bfloat16 gradient of a strided convolution's weight has what was in memory
    where a tap of the kernel sees padding alone, which is so if P6 is one location wide; at times
    it is infinite. oneDNN does not write these entries; float32 is right. Few locations cost
    nothing.
    """

    def forward(self, c5: torch.Tensor) -> list[torch.Tensor]:
        """(B, C, H, W) -> P6 and P7."""
        if c5.device.type != "cpu":
            return super().forward(c5)
        with torch.autocast("cpu", enabled=False):
            return super().forward(c5.float())


def feature_pyramid(bottom_up: Backbone, channels: int = 256, drop_block: float = 0.0) -> FPN:
    """P3..P7 with ``channels`` channels each; P6 and P7 are made from P5, as in ATSS.

    Args:
        bottom_up: features "c3", "c4" and "c5".
        channels: of each level.
        drop_block: in training, the probability of `DropBlock` on the merged maps of P3 and P4,
            before their last convolution; GLIP has 0.3.
    """
    pyramid = FPN(
        bottom_up=bottom_up,
        in_features=["c3", "c4", "c5"],
        out_channels=channels,
        top_block=TopBlock(channels, channels, in_feature="p5"),
    )
    for i, conv in enumerate(pyramid.output_convs):  # coarsest first
        pyramid.output_convs[i] = Conv3x3.like(conv)
        setattr(pyramid, f"fpn_output{5 - i}", pyramid.output_convs[i])
    if drop_block:
        pyramid.drop_block = DropBlock(drop_block)
        pyramid.output_convs[1:] = [
            nn.Sequential(pyramid.drop_block, conv) for conv in pyramid.output_convs[1:]
        ]
    return pyramid


@BACKBONE_REGISTRY.register()
def build_detclip_backbone(cfg: Any, input_shape: ShapeSpec) -> FPN:
    """The pyramid over a timm model from a yacs config (``cfg.MODEL.DETCLIP``)."""
    options: Sequence[Any] = cfg.MODEL.DETCLIP.TIMM_ARGS
    bottom_up = TimmBackbone(
        cfg.MODEL.DETCLIP.TIMM_NAME,
        drop_path_rate=cfg.MODEL.DETCLIP.DROP_PATH_RATE,
        norm_outputs=cfg.MODEL.DETCLIP.NORM_OUTPUTS,
        **dict(options),
    )
    return feature_pyramid(bottom_up, cfg.MODEL.FPN.OUT_CHANNELS)
