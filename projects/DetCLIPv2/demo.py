"""Open-vocabulary detection from one command: list names, and see their detections.

    python projects/DetCLIPv2/demo.py [--names "red apple, fire engine"] [IMAGE ...]

It uses the shipped model, which knows drawn emoji. Without IMAGE, it draws scenes that are in no
training data, and detects the names of all their objects in each of them. Some of these names never
had a box in training.
"""

import argparse
import sys
from pathlib import Path

from detclip2.utils.environment import require_packages

require_packages("demo")

import cv2

from detclip2.cli import main as detclip2
from detclip2.config import load_config
from detclip2.data.emojiscenes import EmojiScenes
from detclip2.data.emojiscenes.categories import World, make_world, names_of
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import default_model

OUTPUT = Path(__file__).resolve().parents[2] / "output" / "demo"
SCENES = 3


def draw_scenes(world: World, size: int, folder: Path) -> tuple[list[str], list[str]]:
    """Draw scenes that are in no training data; returns their files and their objects' names."""
    # Drawn larger than the training images; the predictor resizes them.
    scenes = EmojiScenes(world, "val", SCENES, size=2 * size, seed=1, objects=(3, 4), repeat=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    files, names = [], []
    for index, record in enumerate(scenes):
        files.append(str(folder / f"scene_{index}.png"))
        cv2.imwrite(files[-1], cv2.cvtColor(record["image"], cv2.COLOR_RGB2BGR))
        names += [scenes.class_names[a["category_id"]] for a in record["annotations"]]
    return files, list(dict.fromkeys(names))


def main() -> int:
    """Detect and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument(
        "--names",
        help="comma-separated; default: objects of the scenes, or all names of the training",
    )
    args = parser.parse_args()
    try:
        cfg, _ = load_config(default_model()[0])
        world = make_world(cfg.world.categories)
        images, shown = args.images, []
        if not images:
            images, shown = draw_scenes(world, cfg.inference.min_size, OUTPUT / "images")
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    if new := [name for name in shown if name in names_of(world.novel)]:
        print(f"In these images, but never boxed in training: {', '.join(new)}")
    names = args.names or ", ".join(shown or names_of(world.seen))
    # The model is small: show detections with high scores, and one name for each box.
    options = ["--score-threshold", "0.4", "--class-agnostic-nms"]
    return detclip2(["predict", *images, "--names", names, "--output", str(OUTPUT), *options])


if __name__ == "__main__":
    sys.exit(main())
