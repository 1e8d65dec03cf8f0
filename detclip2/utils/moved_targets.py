"""Present names of targets in configs written before modules moved.

A ``config.yaml`` of a model folder or a run names classes by module. Older files are read as if
they had the present names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Former module -> present module.
_MODULES = {
    "detclip2.data.concepts": "detclip2.data.text.concepts",
    "detclip2.data.mentions": "detclip2.data.mappers.phrase_grounding",
    "detclip2.data.sources.captions": "detclip2.data.datasets.captions",
    "detclip2.data.sources.detection": "detclip2.data.datasets.detection",
    "detclip2.data.sources.emoji": "detclip2.data.emojiscenes",
    "detclip2.data.sources.flickr30k_entities": "detclip2.data.datasets.flickr30k_entities",
    "detclip2.data.sources.grounding": "detclip2.data.datasets.grounding",
    "detclip2.data.sources.image_text": "detclip2.data.io.shards",
    "detclip2.data.sources.lvis": "detclip2.data.datasets.lvis",
    "detclip2.data.sources.odinw": "detclip2.data.datasets.odinw",
    "detclip2.data.sources.pseudo_labels": "detclip2.data.datasets.pseudo_labels",
    "detclip2.engine.optim": "detclip2.engine.solver",
    "detclip2.engine.schedule": "detclip2.engine.solver",
    "detclip2.evaluation.coco_evaluator": "detclip2.evaluation.coco",
    "detclip2.evaluation.lvis_evaluator": "detclip2.evaluation.lvis",
    "detclip2.modeling.assignment": "detclip2.modeling.assigners.atss",
    "detclip2.modeling.box_losses": "detclip2.modeling.losses.detection",
    "detclip2.modeling.contrast": "detclip2.modeling.losses.word_region_contrast",
    "detclip2.modeling.dense_head": "detclip2.modeling.heads.atss_head",
    "detclip2.modeling.detclip": "detclip2.modeling.meta_arch.detclipv2",
    "detclip2.modeling.text_tower": "detclip2.modeling.text.text_tower",
}
# Target in its present module -> its present name.
_NAMES = {
    "detclip2.modeling.text.text_tower.TokenTower": "detclip2.modeling.text.token_tower.TokenTower",
    "detclip2.engine.budget.SharedStartCosine": "detclip2.engine.solver.WarmupHoldCosine",
    "detclip2.evaluation.coco.COCOEvaluator": "detclip2.evaluation.coco.CheckedCOCOEvaluator",
    "detclip2.evaluation.lvis.LVISEvaluator": "detclip2.evaluation.lvis.LVISFixedAPEvaluator",
    # It also measured other metrics of the benchmark of projects/EmojiScenes.
    "detclip2.evaluation.open_vocabulary.open_vocabulary_evaluator": (
        "detclip2.evaluation.lvis.LVISFixedAPEvaluator"
    ),
    "detclip2.modeling.heads.atss_head.DenseHead": "detclip2.modeling.heads.atss_head.ATSSHead",
    "detclip2.modeling.losses.detection.BoxLosses": (
        "detclip2.modeling.losses.detection.DetectionCriterion"
    ),
    # Former configs read test images by it; it decodes some in another way than training does.
    "detectron2.data.DatasetMapper": "detclip2.data.mappers.EvaluationMapper",
    "detclip2.modeling.postprocess.BestOfEachName": "detclip2.modeling.postprocess.TopKPerPhrase",
}
# Target -> former argument -> present argument.
_ARGUMENTS = {"detclip2.engine.solver.WarmupHoldCosine": {"shared": "decay_start"}}
_DATASET_MAPPER = "detectron2.data.DatasetMapper"


def present_target(target: str) -> str:
    """The present name of a target such as "detclip2.modeling.detclip.DetCLIPv2"."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if module in _MODULES:
            target = ".".join([_MODULES[module], *parts[end:]])
            break
    return _NAMES.get(target, target)


def with_present_names(config: Any) -> Any:
    """A copy of a config of plain lists and dicts, with present names.

    Args:
        config: as ``OmegaConf.to_container(cfg, resolve=False)`` gives it.
    """
    config = _with_present_targets(config)
    train = config.get("train") if isinstance(config, dict) else None
    if isinstance(train, dict) and train.get("auto_step", "") is None:
        del train["auto_step"]  # renamed, and was not used
    return config


def _with_present_targets(node: Any) -> Any:
    if isinstance(node, Mapping):
        changed = {key: _with_present_targets(value) for key, value in node.items()}
        if isinstance(target := node.get("_target_"), str):
            changed["_target_"] = present_target(target)
            if target == _DATASET_MAPPER:
                if node.get("is_train", True):
                    changed["_target_"] = target
                else:
                    changed = {k: changed[k] for k in ("_target_", "augmentations") if k in changed}
            names = _ARGUMENTS.get(changed["_target_"], {})
            changed = {names.get(key, key): value for key, value in changed.items()}
        return changed
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [_with_present_targets(value) for value in node]
    return node
