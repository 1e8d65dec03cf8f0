"""GLIP-T by names: its head runs once for each caption, the image's features are computed once."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers
from detectron2.config import LazyConfig, instantiate
from torch import Tensor

from detclip2.data.text.names import read_builtin
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.modeling.text.caption_state import CaptionState
from detclip2.modeling.text.text_tower import load_tokenizer
from detclip2.modeling.text.token_map import clean_name, pack
from detclip2.modeling.text.token_tower import TokenTower

from .models import MODELS, image_of, names_of
from .peers import grounding_dino
from .timing import Setting, relative_to_reference, seconds

SIZE = (800, 1333)
MAX_LENGTH = 256  # tokens of a caption
SURVIVORS = 3000  # pairs of the first caption above the threshold
DEVIATION = 2.0  # of S, so that of each caption about as many are
TOKENIZER = "resource://text_tower_photo"  # it splits names as BERT's does


@dataclass(frozen=True)
class Case:
    """A row: names in captions of at most 256 tokens, and of at most some names."""

    model: str
    names: int
    names_per_caption: int | None = None
    measured: int = 1
    """Captions that are measured; the time of the others is extrapolated."""


CASES = (
    *(Case("GLIP-T", 80), Case("GLIP-T", 1203, measured=3), Case("GLIP-T", 1203, 40, measured=3)),
    *(Case("Grounding DINO-T", names, most) for names, most in ((80, None), (1203, None))),
    Case("Grounding DINO-T", 1203, 40),
)


def build(setting: Setting) -> GLIP:
    """GLIP-T with random weights, BERT-base included."""
    node = LazyConfig.load(str(MODELS.with_name("glip.py"))).swin_t
    node.text_tower = None
    torch.manual_seed(setting.seed)
    model: GLIP = instantiate(node)
    bert = transformers.BertModel(transformers.BertConfig(), add_pooling_layer=False)
    model.text_tower = TokenTower(bert, load_tokenizer(TOKENIZER), max_length=MAX_LENGTH)
    return model.eval().to(setting.device)


def names_of_case(case: Case) -> list[str]:
    """COCO's 80 names, or as many as `names_of` gives."""
    names = [entry[0] for entry in read_builtin("coco")[0]]
    return names if case.names == len(names) else names_of(case.names)


def caption_lengths(case: Case) -> list[int]:
    """Tokens of each caption."""
    tokenizer = load_tokenizer(TOKENIZER)
    names = [clean_name(name) for name in names_of_case(case)]
    lengths = [len(ids) for ids in tokenizer(names, add_special_tokens=False)["input_ids"]]
    captions = pack(lengths, MAX_LENGTH - 2, case.names_per_caption)
    # Separators, start and end.
    return [sum(lengths[i] for i in part) + len(part) + 1 for part in captions]


@torch.no_grad()
def let_survive(model: GLIP, image: Tensor, captions: CaptionState) -> None:
    """Scale S and set its bias so that `SURVIVORS` pairs of the first caption are candidates."""
    images = model.preprocess_image([{"image": image}])
    caption = captions.captions[0]
    text = caption.repeated(1)
    outputs = model.encode_images(images, text)
    head = model.token_head
    head.bias.zero_()
    head.log_scale += (model.token_logits(outputs, text).std() / DEVIATION).log()
    [logits] = model.token_logits(outputs, text)
    least, most = -30.0, 30.0
    while most - least > 1e-3:
        head.bias.fill_((least + most) / 2)
        probability = (logits + head.bias).sigmoid() @ caption.weights
        many = int((probability > model.postprocess.min_probability).sum()) > SURVIVORS
        least, most = (least, float(head.bias)) if many else (float(head.bias), most)


def measure(case: Case, setting: Setting) -> dict[str, Any]:
    """One row: from an image in memory to detections, the captions encoded before."""
    setting.prepare()
    lengths, shared, encoding = caption_lengths(case), 0.0, 0.0
    if case.model == "GLIP-T":
        model, image = build(setting), image_of(SIZE)
        model.names_per_caption = case.names_per_caption
        with setting.context():
            start = time.perf_counter()
            state = model.prepare_vocabulary(names_of_case(case))
            encoding = time.perf_counter() - start
            let_survive(model, image, state)
            shared = shared_seconds(model, image, setting)
        part = CaptionState(state.captions[: case.measured], state.num_labels)
        samples = [{"image": image, "vocabulary": part}]
        inner: Callable[[], object] = partial(model.inference, samples)
    else:
        inner = dino(max(lengths), setting)

    def run() -> object:
        with setting.context():
            return inner()

    row = relative_to_reference(run, setting)
    taken = row["seconds"]["median"]
    factor = (shared + (taken - shared) * len(lengths) / case.measured) / taken
    for times in (row["ratio"], row["seconds"]):
        times.update({key: value * factor for key, value in times.items()})
    counts = {"captions": len(lengths), "tokens": max(lengths), "encoding_seconds": encoding}
    return {**vars(case), **counts, **row}


def shared_seconds(model: GLIP, image: Tensor, setting: Setting) -> float:
    """Seconds of what is computed once for all captions: backbone and pyramid."""

    def run() -> object:
        return model.pyramid(model.preprocess_image([{"image": image}]))

    return statistics.median(seconds(run, setting.device) for _ in range(3))


def dino(tokens: int, setting: Setting) -> Callable[[], object]:
    """Grounding DINO-T with one caption, for which it computes the image anew."""
    return grounding_dino(
        transformers.GroundingDinoConfig,
        transformers.GroundingDinoForObjectDetection,
        setting,
        tokens,
    )
