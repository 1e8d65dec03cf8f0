"""A detector so small that a forward pass takes milliseconds."""

from pathlib import Path

from detectron2.config import LazyConfig

MODELS = Path(__file__).parents[2] / "configs" / "models" / "detclipv2.py"


def config():
    """The nano model's config with few channels and layers."""
    cfg = LazyConfig.load(str(MODELS)).nano
    cfg.backbone.bottom_up.update(layers=[1, 1, 1, 1], channels=[8, 8, 16, 16], stem_width=8)
    cfg.backbone.channels = 16
    cfg.head.update(embed_dim=16, num_convs=1, num_groups=4)
    return cfg


def config_of_two_levels():
    """The same with the levels p4 and p6 alone: to export it takes a third of the time."""
    cfg = config()
    strides = [16, 64]
    cfg.head_in_features = ["p4", "p6"]
    cfg.head.num_levels = len(strides)
    cfg.anchor_generator.update(sizes=[[8 * s] for s in strides], strides=strides)
    return cfg
