r"""Label image-text pairs with the boxes of a detector, to train on them, as GLIP and DetCLIP do.

    python scripts/pseudo_label.py --model FOLDER --pairs CONFIG/SOURCE --count 20000 \
        --output pairs.jsonl [--score 0.3]

FOLDER is a training's output; CONFIG/SOURCE a source of image-text pairs, such as
projects/DetCLIPv2/configs/emoji_nano_pairs.py/pairs. The vocabulary of an image is its caption's
own noun phrases; GLIP reads the caption whole, and gives boxes to the phrases in it. Boxes of at
least --score are kept, and written as ODVG jsonl, one line an image: OdvgFile reads it where the
images are files, PseudoLabelled where they are drawn on the fly. Images without such a box are
kept, without regions; training skips and counts them.

This is a baseline for the word-region contrast of the paper, which needs no such step and is not
limited to categories that the detector knows.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import numpy as np
import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from detclip2.commands.model_arguments import add_model_arguments, config_and_weights
from detclip2.config import build_model, load_config, load_model_config
from detclip2.data.datasets.pseudo_labels import odvg_line, write_odvg
from detclip2.data.hybrid_loader import Source, source_nodes
from detclip2.data.mappers.base import draw_sample
from detclip2.data.mappers.records import decode_caption
from detclip2.data.sample import Sample
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.modeling.meta_arch.glip import GLIP
from detclip2.utils.errors import UserError
from detclip2.utils.weights import load_weights

BATCH = 32


def label_pairs(model: Any, pairs: Source, count: int, score: float) -> Iterator[dict[str, Any]]:
    """ODVG lines of the first `count` records of a source.

    Args:
        model: a DetCLIPv2 or GLIP, in evaluation mode.
        pairs: its mapper is a CaptionMapper without the whole caption as a phrase, which keeps
            "phrase_spans".
        count: how many.
        score: boxes below are skipped.
    """
    known: dict[str, torch.Tensor] = {}  # phrase -> embedding
    for start in range(0, count, BATCH):
        indices = range(start, min(start + BATCH, count))
        records = [pairs.records[i] for i in indices]
        drawn = [
            draw_sample([record], 0, pairs.mapper, np.random.default_rng(i))
            for i, record in zip(indices, records, strict=True)
        ]
        if model.reads_names:
            drawn = [sample and with_whole_caption(model, sample) for sample in drawn]
        samples = [sample for sample in drawn if sample is not None]
        if not model.reads_names:
            fresh = {p for sample in samples for p in sample["phrases"]} - known.keys()
            if fresh:
                names = sorted(fresh)
                known.update(zip(names, model.encode_phrases(names), strict=True))
            for sample in samples:
                sample["vocabulary"] = torch.stack([known[phrase] for phrase in sample["phrases"]])
        found = iter(model(samples) if samples else [])
        for record, sample in zip(records, drawn, strict=True):
            regions = [] if sample is None else regions_of(next(found), sample["phrases"], score)
            captions = record.get("captions") or [record.get("caption", "")]
            size = int(record["height"]), int(record["width"])
            yield odvg_line(record["file_name"], size, decode_caption(captions[0], record), regions)


def with_whole_caption(model: GLIP, sample: Sample) -> Sample | None:
    """A sample whose vocabulary is its caption and the phrases that the caption has literally.

    None if there are none, or the caption does not fit the text model.
    """
    tower, caption = model.text_tower, sample["caption"]
    spans = dict(zip(sample["phrases"], sample["phrase_spans"], strict=True))
    found = {phrase: tuple(map(tuple, own)) for phrase, own in spans.items() if own}
    if not found or tower.num_tokens([caption])[0] > tower.max_own_tokens:
        return None
    vocabulary = CaptionPhrases(caption, tuple(found), tuple(found.values()))
    return {**sample, "phrases": list(found), "vocabulary": vocabulary}


def regions_of(
    output: dict[str, Any], phrases: list[str], score: float
) -> list[tuple[str, list[float]]]:
    """The detections above a score, as phrases with boxes (XYXY px, to a tenth)."""
    instances = output["instances"]
    instances = instances[instances.scores >= score]
    boxes = instances.pred_boxes.tensor.cpu().double().numpy().round(1).tolist()
    names = [phrases[i] for i in instances.pred_classes.tolist()]
    return list(zip(names, boxes, strict=True))


def build_pairs(node: DictConfig) -> Source:
    """The source of image-text pairs of a config's node, for labelling."""
    node = node.copy()
    node.mapper.update(include_caption=False, keep=["phrase_spans"])
    return instantiate(node)


def main(argv: list[str] | None = None) -> int:
    """Label and write; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", required=True, metavar="CONFIG/SOURCE")
    parser.add_argument("--count", type=int, required=True, metavar="N", help="label the first N")
    parser.add_argument("--output", type=Path, required=True, metavar="JSONL")
    parser.add_argument("--score", type=float, default=0.3, help="least score (default 0.3)")
    add_model_arguments(parser)
    args = parser.parse_args(argv)
    try:
        config, weights = config_and_weights(args)
        cfg, name = load_model_config(config, args.trust_config)
        model: Any = build_model(cfg, name).to(args.device or "cpu").eval()
        load_weights(model, weights)
        file, _, source = args.pairs.rpartition("/")
        pairs_cfg, pairs_name = load_config(file, args.trust_config)
        nodes = source_nodes(pairs_cfg)
        if source not in nodes:
            raise UserError(f"{pairs_name} has the sources {sorted(nodes)}, not {source!r}")
        pairs = build_pairs(nodes[source])
        if pairs.length is None:
            raise UserError(f"--pairs {args.pairs}: a stream cannot be labelled, records can")
        if not 0 < args.count <= pairs.length:
            raise UserError(f"--count {args.count}: there are {pairs.length} pairs")
        boxes = write_odvg(label_pairs(model, pairs, args.count, args.score), args.output)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: {args.count} pairs, {boxes} boxes; {pairs.mapper.counter.report()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
