"""Open-vocabulary detection from one command: name things, and see them found.

    python projects/DetCLIPv2/demo.py [--names "red apple, fire engine"] [IMAGE ...]

The first run trains the nano model on EmojiScenes and keeps it in output/demo; later runs use it.
Without pictures, it draws some that the model has never seen.
"""

import argparse
import contextlib
import io
import sys
from pathlib import Path

from detclip2.environment import require_packages

require_packages("demo")

import cv2
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_argument_parser

from detclip2.cli import main as detclip2
from detclip2.data.sources.emoji import EmojiScenes
from detclip2.data.sources.emoji.sets import base_names
from detclip2.engine.training import set_up, train
from detclip2.errors import UserError
from detclip2.model_folder import WEIGHTS_NAME

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Path(__file__).parent / "configs" / "emoji_nano_demo.py"
MODEL = ROOT / "output" / "demo"
PICTURES = 3


def train_model() -> None:
    """Train the demo's model, unless it is there; an interrupted training is taken up again."""
    if (MODEL / WEIGHTS_NAME).is_file():
        return
    print("There is no trained model yet. Training a small one takes some minutes, once.")
    arguments = default_argument_parser().parse_args(["--config-file", str(CONFIG)])
    # The log goes to log.txt alone; here there is the bar.
    with contextlib.redirect_stdout(io.StringIO()):
        cfg = set_up(arguments, str(MODEL))
    model = instantiate(cfg.model).to(cfg.train.device)
    results = train(cfg, model, resume=True, progress_bar=True)
    print(
        f"AP50 on {cfg.dataloader.test.dataset.count} new pictures: {results['bbox']['AP50']:.1f}"
    )


def draw_pictures(folder: Path) -> list[str]:
    """Scenes that no training has shown, as files."""
    cfg = LazyConfig.load(str(CONFIG))
    # Drawn larger than what the model was trained on, to which the predictor brings them back.
    scenes = EmojiScenes(
        cfg.world.categories,
        count=PICTURES,
        size=2 * cfg.world.size,
        seed=cfg.world.seed + 1,
        objects=(3, 4),
        long_tail=0.0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, record in enumerate(scenes):
        files.append(str(folder / f"scene_{index}.png"))
        cv2.imwrite(files[-1], cv2.cvtColor(record["image"], cv2.COLOR_RGB2BGR))
    return files


def main() -> int:
    """Train if need be, then detect and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--names", help="comma-separated; default: all that the model has seen")
    args = parser.parse_args()
    try:
        train_model()
        images = args.images or draw_pictures(MODEL / "pictures")
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    names = args.names or ", ".join(base_names(LazyConfig.load(str(CONFIG)).world.categories))
    output = str(MODEL / "found")
    options = ["--names", names, "--model", str(MODEL), "--output", output]
    # The model is small and young: show what it is sure of, and one name for each box.
    options += ["--score-threshold", "0.5", "--class-agnostic-nms"]
    return detclip2(["predict", *images, *options])


if __name__ == "__main__":
    sys.exit(main())
