"""Fit the projector of example boxes of a model, for `detclip2 vocabulary --examples`.

    python scripts/fit_examples.py --model emoji_nano --scenes 4096
    python scripts/fit_examples.py --model my_model --annotations train.json --images images

It is written into the model folder as ``examples.safetensors``. A model of emoji is fitted on
scenes of the base categories of EmojiScenes, another one on annotated images of many categories,
such as those that it was trained on.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
import torch
from rich.progress import track

from detclip2.commands.example_boxes import images_of
from detclip2.data.emojiscenes.scenes import EmojiScenes
from detclip2.finetuning.coco_check import read_own_data
from detclip2.inference.examples import ExampleImage, ExampleProjector
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.utils.model_folder import EXAMPLES_NAME

SIZE = 160  # px, of the scenes that emoji_nano was trained on


def scenes_of(scenes: EmojiScenes) -> Iterator[ExampleImage]:
    """Scenes as images with examples."""
    for i in range(len(scenes)):
        record = scenes[i]
        boxes = torch.tensor([one["bbox"] for one in record["annotations"]])
        labels = [scenes.class_names[one["category_id"]] for one in record["annotations"]]
        yield ExampleImage(record["image"], boxes, labels)


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", required=True, help="a model folder, or one that ships")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--scenes", type=int, metavar="N", help="fit on so many of EmojiScenes")
    data.add_argument("--annotations", type=Path, metavar="JSON", help="fit on COCO's format")
    parser.add_argument("--images", type=Path, metavar="DIR", help="of --annotations")
    args = parser.parse_args()
    predictor = OpenVocabularyPredictor(args.model, device="cpu")
    if args.scenes is not None:
        scenes = EmojiScenes(None, "train", count=args.scenes, size=SIZE, long_tail=0.0)
        images, count = scenes_of(scenes), len(scenes)
    else:
        own = read_own_data(args.annotations, args.images or args.annotations.parent)
        images, count = images_of(own), len(own.images)
    path = predictor.folder / EXAMPLES_NAME
    ExampleProjector.fit(predictor, track(images, "fitting", count)).save(path)
    print(path)


if __name__ == "__main__":
    main()
