"""``detclip2 show-data``: draw samples of a source of a training config."""

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import supervision as sv
from PIL import Image

from detclip2.commands.model_arguments import add_trust_argument
from detclip2.config import apply_overrides, build, load_config, reason_of
from detclip2.data.hybrid_loader import source_nodes
from detclip2.data.mappers import draw_sample
from detclip2.data.sample import TEXT_KEYS, check_sample
from detclip2.data.sources import Source
from detclip2.utils.errors import UserError
from detclip2.utils.repository import config_of_user
from detclip2.visualization.detections import font_for
from detclip2.visualization.text_panel import draw_text

MIN_WIDTH = 640
FONT_SIZE = 14
ATTEMPTS = 4  # records that are tried for each sample
COLORS = sv.ColorPalette.DEFAULT

EXAMPLE = "detclip2 show-data --config emoji_nano_pairs --source pairs --output samples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME|FILE",
        help="a training config, by its name or as a .py or .yaml",
    )
    parser.add_argument("--source", help="a key of its dataloader.train (default: the only one)")
    parser.add_argument("--count", type=int, default=16, help="number of samples (default: 16)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the images")
    parser.add_argument(
        "--seed", type=int, default=0, help="random seed of records and augmentation (default: 0)"
    )
    add_trust_argument(parser)
    parser.add_argument("overrides", nargs="*", help="config changes, such as world.size=640")


def run(args: argparse.Namespace) -> int:
    """Write an image of each sample; print its contents and the skipped records."""
    if args.count < 1:
        raise UserError(f"--count {args.count}: expected 1 or more")
    source = load_source(args.config, args.source, args.overrides, args.trust_config)
    samples = draw_samples(source, args.count, args.seed)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(samples):
            path = args.output / f"{sample['supervision']}-{number:04d}.png"
            Image.fromarray(draw_page(sample)).save(path)
            boxes = len(sample["instances"]) if "instances" in sample else 0
            negatives = len(sample["phrases"]) - sample["num_positives"]
            print(
                f"{path}: {sample['num_positives']} positive phrases, {negatives} negative, "
                f"{boxes} boxes, {sample['file_name'] or sample['image_id']}"
            )
    except OSError as error:
        raise UserError(f"--output {args.output}: cannot be written ({error})") from error
    print(source.mapper.counter.report())
    return 0


def load_source(
    config: str | Path, name: str | None, overrides: list[str], trust_config: bool = False
) -> Source:
    """The source `name` of a config's ``dataloader.train``, with its ``records`` and ``mapper``.

    Raises:
        UserError: the config cannot be loaded, has no such source, or the source cannot be built.
    """
    cfg, file = load_config(config_of_user(config), trust_config)
    apply_overrides(cfg, overrides, file)
    names = sorted(source_nodes(cfg))
    if name is None and len(names) == 1:
        name = names[0]
    if name not in names:
        raise UserError(f"--source: {file} has {names} in dataloader.train, not {name!r}")
    return build(cfg, f"dataloader.train.{name}", file)


def draw_samples(source: Source, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """The first `count` samples of a source in the order of `seed`, checked.

    Raises:
        UserError: there are no records, none makes a sample, or an argument of the config fails.
        ValueError: the mapper returns a sample in another format.
    """
    records, order = source.preview(ATTEMPTS * count, seed)
    mapper, made = source.mapper, 0
    for index in order:
        try:
            sample = draw_sample(records, index, mapper, np.random.default_rng([seed, index]))
        except UserError:
            raise
        except Exception as error:  # of an argument that fails in use alone, e.g. a shape of Resize
            raise UserError(
                f"record {index} of the source makes no sample ({reason_of(error)}): check the "
                "arguments of its records, mapper and augmentations in the config"
            ) from error
        if sample is not None:
            check_sample(sample, mapper.max_phrases)
            yield sample
            made += 1
        if made == count:
            return
    if made == 0:
        raise UserError(f"no record of the source makes a sample: {mapper.counter.report()}")


def draw_page(sample: dict[str, Any]) -> np.ndarray:
    """The image of a sample with its boxes and their phrases, and all its phrases and texts below.

    Small images are enlarged, so that the phrases can be read. An asterisk marks a positive phrase
    whose instances are not all boxed.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = sample["image"].permute(1, 2, 0).numpy().clip(0, 255).astype(np.uint8)
    factor = max(1, -(-MIN_WIDTH // image.shape[1]))
    drawn = Image.fromarray(image)
    drawn = drawn.resize((drawn.width * factor, drawn.height * factor))
    not_exhaustive = set(sample["not_exhaustive"].tolist())
    phrases = [
        " ".join(phrase.split()) + ("*" if i in not_exhaustive else "")
        for i, phrase in enumerate(sample["phrases"])
    ]
    if "instances" in sample and len(sample["instances"]):
        drawn = _draw_boxes(drawn, sample["instances"], phrases, factor)
    return np.vstack([np.asarray(drawn), _draw_list(sample, phrases, drawn.width)])


def _draw_boxes(drawn: Image.Image, instances: Any, phrases: list[str], factor: int) -> Any:
    classes = instances.gt_classes.numpy()
    boxes = instances.gt_boxes.tensor.numpy() * factor
    detections = sv.Detections(xyxy=boxes, class_id=classes)
    texts = [textwrap.shorten(phrases[i], 30, placeholder="...") for i in classes]
    labels = sv.RichLabelAnnotator(
        color=COLORS,
        text_color=sv.Color.BLACK,
        font_path=font_for("".join(sorted(set("".join(texts))))),
        font_size=FONT_SIZE,
        text_padding=2,
        smart_position=True,  # moves labels apart and into the image
    )
    # A Pillow image: supervision takes arrays for OpenCV's BGR.
    drawn = sv.BoxAnnotator(color=COLORS, thickness=2).annotate(drawn, detections)
    return labels.annotate(drawn, detections, texts)


def _draw_list(sample: dict[str, Any], phrases: list[str], width: int) -> np.ndarray:
    """A panel of text, (H, `width`, 3) uint8 RGB."""
    positives = sample["num_positives"]
    own = ", own phrases only" if sample["own_phrases_only"] else ""
    paragraphs = [
        f"{sample['supervision']}{own}: {sample['file_name'] or sample['image_id']}, "
        f"{sample['width']} x {sample['height']}",
        f"positive ({positives}): " + " | ".join(phrases[:positives]),
        f"negative ({len(phrases) - positives}): " + " | ".join(phrases[positives:]),
        *(f"{key}: {_shown(sample[key])}" for key in TEXT_KEYS if key in sample),
    ]
    return draw_text(paragraphs, width, FONT_SIZE)


def _shown(text: Any) -> str:
    """A text, or answers with their scores: "yes (1), no (0.3)"."""
    if isinstance(text, str):
        return text
    return ", ".join(f"{answer} ({score:.2g})" for answer, score in text.items())
