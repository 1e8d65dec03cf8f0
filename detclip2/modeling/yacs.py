"""DetCLIPv2 from a yacs config, for Detectron2's ``build_model`` and ``DefaultPredictor``.

The project itself uses LazyConfigs; both kinds of config build the same classes. Importing this
module registers the meta-architecture and its backbone.
"""

from collections.abc import Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_backbone
from torch import nn

from detclip2.modeling import backbone as _backbone  # noqa: F401  (registers the backbone)
from detclip2.modeling.alignment import Alignment
from detclip2.modeling.assigners.atss import ATSSAssigner
from detclip2.modeling.heads.atss_head import ATSSHead
from detclip2.modeling.losses.detection import DetectionCriterion
from detclip2.modeling.losses.word_region_contrast import WordRegionContrast
from detclip2.modeling.meta_arch import detclipv2 as _detclipv2  # noqa: F401  (registers the model)
from detclip2.modeling.postprocess import PostProcess
from detclip2.modeling.text.text_tower import (
    TextTower,
    fresh_text_model,
    load_text_model,
    load_tokenizer,
)
from detclip2.utils.devices import checked_device
from detclip2.utils.errors import UserError


def add_detclip_config(cfg: CfgNode) -> None:
    """Add the keys of DetCLIPv2 to Detectron2's defaults, with Swin-T's values.

    The device is the GPU if there is one, else the CPU.
    """
    cfg.MODEL.DEVICE = str(checked_device())
    cfg.MODEL.META_ARCHITECTURE = "DetCLIPv2"
    cfg.MODEL.BACKBONE.NAME = "build_detclip_backbone"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.INPUT.FORMAT = "RGB"
    node = cfg.MODEL.DETCLIP = CfgNode()
    node.TIMM_NAME = "swin_tiny_patch4_window7_224"
    # [name, value] pairs for timm.create_model.
    node.TIMM_ARGS = []
    node.DROP_PATH_RATE = 0.2
    node.NORM_OUTPUTS = True
    node.EMBED_DIM = 256
    node.NUM_CONVS = 4
    node.NUM_GROUPS = 32
    node.DEFORMABLE = True
    node.TEXT_TOWER = "openai/clip-vit-base-patch32"
    # "pretrained" loads weights; "fresh" starts from random ones (fresh_text_model).
    node.TEXT_WEIGHTS = "pretrained"
    # Identity of the encoder in saved vocabularies; "" derives it from the text model.
    node.TEXT_IDENTITY = ""
    node.MAX_LENGTH = 16
    node.POOLING = "end_of_text"
    # Arguments of Alignment.
    node.PRIOR = 0.01
    node.NORMALIZE_REGIONS = False
    node.INITIAL_SCALE = 1.0
    # Names to detect; empty: those of the first data set of DATASETS.TEST, read when first needed.
    node.VOCABULARY = []
    node.SCORE_THRESHOLD = 0.05
    node.NMS_THRESHOLD = 0.6
    node.CLASS_AGNOSTIC_NMS = False


def arguments_from_yacs(cfg: CfgNode) -> dict[str, Any]:
    """The arguments of ``DetCLIPv2`` that a yacs config describes.

    Raises:
        UserError: TEXT_WEIGHTS is unknown, or a file of the text tower is missing.
    """
    node = cfg.MODEL.DETCLIP
    backbone = build_backbone(cfg)
    text_tower = TextTower(
        _text_model(node.TEXT_TOWER, node.TEXT_WEIGHTS),
        load_tokenizer(node.TEXT_TOWER),
        embed_dim=node.EMBED_DIM,
        max_length=node.MAX_LENGTH,
        pooling=node.POOLING,
        identity=node.TEXT_IDENTITY,
    )
    return {
        "backbone": backbone,
        "head": ATSSHead(
            cfg.MODEL.FPN.OUT_CHANNELS,
            node.EMBED_DIM,
            num_convs=node.NUM_CONVS,
            deformable=node.DEFORMABLE,
            num_groups=node.NUM_GROUPS,
        ),
        "text_tower": text_tower,
        "align": Alignment(node.PRIOR, node.NORMALIZE_REGIONS, node.INITIAL_SCALE),
        "box_losses": DetectionCriterion(ATSSAssigner()),
        "contrast": WordRegionContrast(),
        "postprocess": PostProcess(
            node.SCORE_THRESHOLD,
            node.NMS_THRESHOLD,
            node.CLASS_AGNOSTIC_NMS,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        ),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "vocabulary": node.VOCABULARY or _NamesOf(cfg.DATASETS.TEST),
    }


def _text_model(path: str, weights: str) -> nn.Module:
    if weights == "fresh":
        return fresh_text_model(path)
    if weights == "pretrained":
        return load_text_model(path)
    raise UserError(f"MODEL.DETCLIP.TEXT_WEIGHTS is {weights!r}; expected 'pretrained' or 'fresh'")


class _NamesOf:
    """Reads the names of the first test set, whose json is loaded for them if need be.

    A class, and not a function in a function, so that a model can be copied and pickled.
    """

    def __init__(self, datasets: Sequence[str]) -> None:
        self.datasets = tuple(datasets)

    def __call__(self) -> list[str]:
        if not self.datasets:
            return []
        name = self.datasets[0]
        if not MetadataCatalog.get(name).get("thing_classes"):
            # register_coco_instances sets the names when the records are first loaded.
            try:
                DatasetCatalog.get(name)
            except (KeyError, OSError) as error:
                raise UserError(
                    f"the names of DATASETS.TEST[0], {name!r}, cannot be read: {error}. Register "
                    "the set, or list names in MODEL.DETCLIP.VOCABULARY"
                ) from error
        return list(MetadataCatalog.get(name).get("thing_classes", []))
