"""The measured models, with random weights and without network: time does not depend on weights.

One thing does: how many (anchor, name) pairs are above the score threshold. At random weights
every score is near the prior, so that all are or none is. The bias of the similarities is
therefore set so that a given number survives.
"""

from itertools import islice, product
from pathlib import Path

import torch
from detectron2.config import LazyConfig, instantiate
from torch import Tensor

from detclip2.data.text.names import read_builtin
from detclip2.modeling.meta_arch.detclipv2 import DetCLIPv2
from detclip2.modeling.text.text_tower import TextTower, load_tokenizer

from .timing import Setting

MODELS = Path(__file__).resolve().parents[2] / "configs" / "models" / "detclipv2.py"
# Any tokenizer splits names as well: its pieces are fewer than CLIP's, and so are ids.
TOKENIZER = "resource://text_tower_nano"


def image_of(size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8: noise with large shapes in it."""
    coarse = torch.rand(1, 3, 8, 8)
    smooth = torch.nn.functional.interpolate(coarse, size, mode="bicubic")[0]
    return ((smooth + 0.1 * torch.randn(3, *size)).clamp(0, 1) * 255).to(torch.uint8)


def names_of(count: int) -> list[str]:
    """`count` distinct names: those of LVIS, then these with adjectives."""
    words = [entry[0] for entry in read_builtin("lvis")[0]]
    adjectives = ("", "red ", "small ", "old ", "wooden ", "striped ", "broken ", "shiny ")
    adjectives += ("paper ", "blue ", "open ", "dirty ")
    # "paper towel" is a name of LVIS, too.
    names = dict.fromkeys(adjective + word for adjective, word in product(adjectives, words))
    return list(islice(names, count))


def build(size: str, setting: Setting, text: bool = False) -> DetCLIPv2:
    """A model of configs/models, such as ``swin_t``; with CLIP's ViT-B/32 text tower, if `text`."""
    file = "photo_nano.py" if size == "photo_nano" else MODELS.name
    node = LazyConfig.load(str(MODELS.with_name(file)))[size]
    node.text_tower = None
    torch.manual_seed(setting.seed)
    model = instantiate(node)
    if text:
        from transformers import CLIPTextConfig, CLIPTextModel  # seconds, where they are not used

        model.text_tower = TextTower(
            CLIPTextModel(CLIPTextConfig()), load_tokenizer(TOKENIZER), model.embed_dim
        )
    return model.eval().to(setting.device)


def vocabulary_of(count: int, model: DetCLIPv2) -> Tensor:
    """(C, D) random embeddings of unit length."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(count, model.embed_dim, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1).to(model.device)


@torch.no_grad()
def let_survive(model: DetCLIPv2, image: Tensor, vocabulary: Tensor, pairs: int) -> int:
    """Set the bias so that about ``pairs`` scores of the image are above the threshold.

    Returns:
        how many there are.
    """
    outputs = model.encode_images(model.preprocess_image([{"image": image}]))
    scores = []  # S without its bias, minus the threshold of S
    model.align.bias.fill_(0)
    floor = model.postprocess.resolved(None).score_threshold ** 2
    bound = torch.logit(floor / outputs.centerness[0].sigmoid())
    for regions, least in zip(outputs.regions[0].split(1000), bound.split(1000), strict=True):
        margin = (model.align(regions, vocabulary) - least[:, None]).flatten()
        margin = margin.nan_to_num(-torch.inf)  # without centerness nothing survives
        scores.append(margin.topk(min(pairs + 1, len(margin))).values)
    margins = torch.cat(scores)
    least = margins.topk(min(pairs + 1, len(margins))).values[-1]
    model.align.bias.fill_(-least)
    return int((margins > least).sum())
