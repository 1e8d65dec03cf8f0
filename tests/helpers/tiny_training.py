"""A training on EmojiScenes of one second, and projects/DetCLIPv2/train_net.py to run it."""

import importlib.util
import sys
from pathlib import Path

from detectron2.config import LazyCall, LazyConfig

from detclip2.modeling.backbone import TimmBackbone

PROJECT = Path(__file__).parents[2] / "projects" / "DetCLIPv2"
TRAIN_NET = PROJECT / "train_net.py"


def load_script(path):
    """A script as a module, by the name of its file; loaded once."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    return sys.modules[path.stem]


def load_train_net():
    """projects/DetCLIPv2/train_net.py as a module."""
    return load_script(TRAIN_NET)


def tiny_config(output_dir, iterations=6, num_workers=0, drop_path=0.0, sources=None):
    """Boxes and image-text pairs in turn, or one of them, at 64 x 64 px; 4 images to evaluate."""
    cfg = LazyConfig.load(str(PROJECT / "configs" / "emoji_nano_pairs.py"))
    # Without batch normalisation, whose statistics differ between one process and two.
    cfg.model.backbone.bottom_up = LazyCall(TimmBackbone)(
        name="swin_tiny_patch4_window7_224",
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 2, 2],
        drop_path_rate=drop_path,
    )
    cfg.model.backbone.channels = 16
    cfg.model.head.update(embed_dim=16, num_convs=1, num_groups=4)
    cfg.world.update(categories=30, size=64)
    for name in ("detection", "pairs"):
        if name in (sources or ("detection", "pairs")):
            cfg.dataloader.train[name].update(total_batch_size=4, num_workers=num_workers)
        else:
            del cfg.dataloader.train[name]
    if len(sources or "12") == 1:
        cfg.train.source_ratios = None
    cfg.train.source_starts = None
    cfg.dataloader.test.dataset.count = 4
    cfg.lr_multiplier.warmup_iterations = 2
    cfg.train.update(
        output_dir=str(output_dir),
        max_iter=iterations,
        checkpointer={"period": 3, "max_to_keep": 3},
        log_period=1,
    )
    return cfg


def tiny_glip_config(output_dir, iterations=6, config="emoji_glip_nano"):
    """GLIP on boxes and captions with boxes in turn, at 64 x 64 px; 4 images to evaluate."""
    cfg = LazyConfig.load(str(PROJECT.parent / "GLIPv2" / "configs" / f"{config}.py"))
    cfg.model.backbone.bottom_up.update(layers=(1, 1, 1, 1), channels=(8, 8, 16, 16), stem_width=8)
    cfg.model.backbone.update(channels=16, drop_block=0.3)
    cfg.model.head.update(fusion_width=32, num_groups=4, dropout=0.1)
    cfg.world.update(categories=30, size=64)
    for name in ("detection", "grounding"):
        cfg.dataloader.train[name].update(total_batch_size=4, num_workers=0)
    cfg.dataloader.test.dataset.count = 4
    for test in (cfg.dataloader.get("tests") or {}).values():
        test.loader.dataset.records.count = 4
    cfg.train.source_starts = None
    cfg.lr_multiplier.warmup_iterations = 2
    cfg.train.update(
        output_dir=str(output_dir),
        max_iter=iterations,
        checkpointer={"period": 3, "max_to_keep": 3},
        log_period=1,
    )
    return cfg


class CaptionsAlone:
    """Records without boxes and phrases."""

    def __init__(self, **settings):
        pass

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image_id": index, "caption": ""}
