"""Detectors of transformers and torchvision, made from their configs with random weights.

Each returns what runs one image from a ready tensor to the model's raw output or detections; the
text of the open-vocabulary ones is what its tokenizer would give, as random ids of that length.
"""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
import transformers
from torch import Tensor

from .timing import Setting, relative_to_reference

Run = Callable[[], object]
TOKENS_OF_CLIP = 77  # OmDet-Turbo and OWLv2 pad every name to 77 and 16
TOKENS_OF_OWL = 16


def grounding_dino(config: type, model: type, setting: Setting, tokens: int = 242) -> Run:
    """A caption whose text is fused into the image: by default 80 names of 2 tokens and a stop."""
    network = setting.module(model(config()))
    word = torch.randint(2000, 20000, (tokens // 3, 2))
    names = torch.cat([word, torch.full((len(word), 1), 1012)], dim=1).flatten()[: tokens - 2]
    ids = torch.cat([torch.tensor([101]), names, torch.tensor([102])])[None].to(setting.device)
    image = torch.randn(1, 3, 800, 1333, device=setting.device)
    mask = torch.ones_like(ids)
    return lambda: network(
        pixel_values=image,
        input_ids=ids,
        attention_mask=mask,
        token_type_ids=torch.zeros_like(ids),
        pixel_mask=torch.ones(1, 800, 1333, dtype=torch.long, device=setting.device),
    )


def omdet_turbo(names: int, setting: Setting) -> Run:
    """640 x 640, names cached: the model itself caches the embeddings of names."""
    config = transformers.OmDetTurboConfig(cache_size=2 * names)
    network = setting.module(transformers.OmDetTurboForObjectDetection(config))
    ids = torch.randint(1000, 40000, (names, TOKENS_OF_CLIP), device=setting.device)
    mask = torch.zeros_like(ids)
    mask[:, :4] = 1
    ids[:, 0], ids[:, 3:] = 49406, 49407
    task = torch.randint(1000, 40000, (1, TOKENS_OF_CLIP), device=setting.device)
    image = torch.randn(1, 3, 640, 640, device=setting.device)
    return lambda: network(
        pixel_values=image,
        classes_input_ids=ids,
        classes_attention_mask=mask,
        tasks_input_ids=task,
        tasks_attention_mask=torch.ones_like(task),
        classes_structure=torch.tensor([names], device=setting.device),
    )


def owlv2(names: int, setting: Setting) -> Run:
    """B/16 at 960 x 960, names cached: the forward pass of the model without its text tower."""
    config = transformers.Owlv2Config(
        vision_config={"image_size": 960, "patch_size": 16}, text_config={}
    )
    network = setting.module(transformers.Owlv2ForObjectDetection(config))
    image = torch.randn(1, 3, 960, 960, device=setting.device)
    queries = torch.randn(1, names, config.projection_dim, device=setting.device)

    def run() -> tuple[Tensor, ...]:
        feature_map, _ = network.image_embedder(pixel_values=image)
        features = feature_map.flatten(1, 2)
        scores, _ = network.class_predictor(features, queries)
        boxes = network.box_predictor(features, feature_map)
        return scores, boxes, network.objectness_predictor(features)

    return run


def closed_set(make: Callable[..., Any], names: int, setting: Setting) -> Run:
    """Torchvision's detectors at 800 x 1333; their classes are fixed when they are trained."""
    network = setting.module(
        make(weights=None, weights_backbone=None, num_classes=names, min_size=800, max_size=1333)
    )
    image = torch.rand(3, 800, 1333, device=setting.device)
    return lambda: network([image])


PEERS: dict[str, Callable[[Setting], Run]] = {
    "fcos": lambda s: closed_set(torchvision.models.detection.fcos_resnet50_fpn, 80, s),
    "retinanet": lambda s: closed_set(torchvision.models.detection.retinanet_resnet50_fpn, 80, s),
    "omdet-turbo": lambda s: omdet_turbo(80, s),
    "omdet-turbo-1203": lambda s: omdet_turbo(1203, s),
    "owlv2": lambda s: owlv2(80, s),
    "grounding-dino": lambda s: grounding_dino(
        transformers.GroundingDinoConfig, transformers.GroundingDinoForObjectDetection, s
    ),
    "mm-grounding-dino": lambda s: grounding_dino(
        transformers.MMGroundingDinoConfig, transformers.MMGroundingDinoForObjectDetection, s
    ),
}
SLOW = {"grounding-dino", "mm-grounding-dino", "owlv2"}
DESCRIPTIONS = {
    "fcos": ("FCOS R50, torchvision, closed set", "800 x 1333", 80),
    "retinanet": ("RetinaNet R50, torchvision, closed set", "800 x 1333", 80),
    "omdet-turbo": ("OmDet-Turbo Swin-T", "640 x 640", 80),
    "omdet-turbo-1203": ("OmDet-Turbo Swin-T", "640 x 640", 1203),
    "owlv2": ("OWLv2 B/16", "960 x 960", 80),
    "grounding-dino": ("Grounding DINO-T, text fused", "800 x 1333", 80),
    "mm-grounding-dino": ("MM-Grounding-DINO-T, text fused", "800 x 1333", 80),
}


def measure(peer: str, setting: Setting) -> dict[str, Any]:
    """The row of a peer."""
    setting.prepare()
    inner = PEERS[peer](setting)

    def run() -> object:
        with setting.context():
            return inner()

    model, size, names = DESCRIPTIONS[peer]
    return {
        "peer": peer,
        "model": model,
        "size": size,
        "names": names,
        **relative_to_reference(run, setting),
    }


def ours_against(peer: str, setting: Setting) -> dict[str, Any]:
    """Our Swin-T with 80 cached names at the peer's size, directly in turns with the peer."""
    from .inference import Case, prepared

    setting.prepare()
    inner = PEERS[peer](setting)
    _, size, names = DESCRIPTIONS[peer]
    height, width = map(int, size.split(" x "))
    run, _ = prepared(Case(names, (height, width)), setting)

    def other() -> object:
        with setting.context():
            return inner()

    return {
        "peer": peer,
        "size": size,
        "names": names,
        **relative_to_reference(run, setting, other),
    }
