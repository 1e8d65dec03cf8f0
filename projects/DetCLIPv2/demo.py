"""Open-vocabulary detection from one command: list names, and see their detections.

    python projects/DetCLIPv2/demo.py [--names "cat, coffee cup"] [--model NAME|DIR] [IMAGE ...]

Without IMAGE, it searches photographs that come with scikit-image and matplotlib, all for the same
names. A model of EmojiScenes (``--model emoji_nano``) searches scenes that it has not seen, which
are drawn for it; some of their names never had a box in training.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detclip2.utils.environment import require_packages

require_packages("demo")

import cv2
import numpy as np
from omegaconf import DictConfig

from detclip2.cli import main as detclip2
from detclip2.commands.model_arguments import model_argument
from detclip2.config import load_config
from detclip2.data.emojiscenes import EmojiScenes
from detclip2.data.emojiscenes.categories import World, make_world, names_of
from detclip2.data.io.image import read_image
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.model_folder import default_model, read_model_folder

OUTPUT = Path(__file__).resolve().parents[2] / "output" / "demo"
SCENES = 3
# File -> the package that carries it; none is copied into this repository.
PHOTOGRAPHS = {
    "chelsea.png": "skimage",
    "astronaut.png": "skimage",
    "coffee.png": "skimage",
    "motorcycle_left.png": "skimage",
    "rocket.jpg": "skimage",
    "grace_hopper.jpg": "matplotlib",
}
NAMES = "cat, person, cup, spoon, motorcycle, rocket, dog, car, traffic light, elephant"
HEIGHT = 320  # of the images in the overview
COLUMNS = 3


def photographs() -> list[Path]:
    """The photographs that scikit-image and matplotlib install, in their folders.

    Raises:
        UserError: a package is not installed, or has no such file.
    """
    try:
        import matplotlib
        import skimage
    except ModuleNotFoundError as error:
        raise UserError(
            f"the photographs come with {error.name}, which is not installed: run `make setup` or "
            "`pip install 'detclip2[demo]'`, or name images of your own"
        ) from None
    folders = {
        "skimage": Path(skimage.__file__).parent / "data",
        "matplotlib": Path(matplotlib.get_data_path(), "sample_data"),
    }
    files = [folders[package] / name for name, package in PHOTOGRAPHS.items()]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing: install its package again, or name other images")
    return files


def draw_scenes(world: World, size: int, folder: Path) -> tuple[list[Path], list[str]]:
    """Draw scenes that are in no training data; returns their files and their objects' names."""
    # Drawn larger than the training images; the predictor resizes them.
    scenes = EmojiScenes(world, "val", SCENES, size=2 * size, seed=1, objects=(3, 4), repeat=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    files, names = [], []
    for index, record in enumerate(scenes):
        files.append(folder / f"scene_{index}.png")
        cv2.imwrite(str(files[-1]), cv2.cvtColor(record["image"], cv2.COLOR_RGB2BGR))
        names += [scenes.class_names[a["category_id"]] for a in record["annotations"]]
    return files, list(dict.fromkeys(names))


def emoji_inputs(cfg: DictConfig, images: Sequence[Path]) -> tuple[Sequence[Path], str]:
    """Images and names for a model of EmojiScenes."""
    world = make_world(cfg.world.categories)
    if images:
        return images, ", ".join(names_of(world.seen))
    images, shown = draw_scenes(world, cfg.inference.min_size, OUTPUT / "images")
    if new := [name for name in shown if name in names_of(world.novel)]:
        print(f"In these images, but never boxed in training: {', '.join(new)}")
    return images, ", ".join(shown)


def write_overview(files: Sequence[Path], path: Path) -> None:
    """Write the images as one, in rows of equal width."""
    rows = []
    for start in range(0, len(files), COLUMNS):
        images = [read_image(file) for file in files[start : start + COLUMNS]]
        row = np.hstack([_resized(image, HEIGHT / image.shape[0]) for image in images])
        rows.append(_resized(row, rows[0].shape[1] / row.shape[1] if rows else 1))
    encoded = cv2.imencode(".jpg", cv2.cvtColor(np.vstack(rows), cv2.COLOR_RGB2BGR))[1]
    write_whole(path, lambda file: file.write(encoded.tobytes()))


def _resized(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = (round(scale * length) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def main() -> int:
    """Detect and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE")
    parser.add_argument("--names", help="comma-separated; default: some that fit the model")
    parser.add_argument("--model", type=model_argument, metavar="NAME|DIR")
    args = parser.parse_args()
    try:
        config, weights = read_model_folder(args.model) if args.model else default_model()
        cfg, _ = load_config(config)
        if "world" in cfg:
            (images, names), score = emoji_inputs(cfg, args.images), "0.4"
        else:
            images, names, score = args.images or photographs(), NAMES, "0.43"
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    # The models are small: show sure detections, and one name for each box.
    shown = ["--score-threshold", score, "--class-agnostic-nms"]
    command = ["predict", *map(str, images), "--names", args.names or names, *shown]
    command += ["--config", str(config), "--weights", str(weights), "--output", str(OUTPUT)]
    code = detclip2(command)
    if code == 0 and not args.images:
        drawn = [next(OUTPUT.glob(f"{file.stem}.detections.*")) for file in images]
        write_overview(drawn, OUTPUT / "demo.jpg")
        print(f"all of them: {OUTPUT / 'demo.jpg'}")
    return code


if __name__ == "__main__":
    sys.exit(main())
