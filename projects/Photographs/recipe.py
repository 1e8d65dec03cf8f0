r"""Train the model of photographs that ships, from two packages and a folder of photographs.

    python -m projects.Photographs.recipe PHOTOS --categories NAMES ... --output DIR

PHOTOS is described in ``projects.Photographs.tools.prepare_data``; NAMES are lists of names for the
text tower (see ``scripts.distil_text_tower``). Each step is a command of its own, and prints it.
Started again, the command goes on: steps whose files are there are skipped, a training continues
from its last checkpoint. The model folder is DIR/photo_nano.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from detclip2.cli import main as detclip2
from detclip2.utils.model_folder import WEIGHTS_NAME
from projects.Photographs.tools import join_weights, prepare_data
from scripts import distil_text_tower, fetch_starting_weights, name_regions


class Step(NamedTuple):
    """A command of the recipe."""

    run: Callable[[list[str]], int]
    """Its ``main``."""
    arguments: list[str]
    makes: Path
    """The last file that it writes."""


def steps(photos: Path, categories: Sequence[Path], output: Path) -> Iterator[Step]:
    """The steps, in order."""
    start, data, tower = (output / name for name in ("start", "data", "text_tower"))
    backbone, teacher = start / "tf_efficientnet_lite0.safetensors", start / "all-MiniLM-L6-v2"

    def step(run: Callable[[list[str]], int], makes: Path, *arguments: object) -> Step:
        return Step(run, [str(argument) for argument in arguments], makes)

    def regions(name: str, *arguments: object) -> Step:
        makes = data / f"{name}_regions.jsonl"
        about = ("--image-root", photos, "--weights", backbone, "--output", makes)
        return step(name_regions.main, makes, data / f"{name}.jsonl", *about, *arguments)

    def training(config: str, start: Path) -> Step:
        folder = output / config
        chosen = {
            "photos.images": photos,
            "photos.data": data,
            "model.text_tower.model.path": tower,
            "train.init_checkpoint": start,
            "train.output_dir": folder,
        }
        overrides = [f"{key}='{value}'" for key, value in chosen.items()]
        arguments = ("train", "--config", config, "--resume", *overrides)
        return step(detclip2, folder / WEIGHTS_NAME, *arguments)

    yield step(fetch_starting_weights.main, teacher / WEIGHTS_NAME, "--output", start)
    yield step(prepare_data.main, data / "texts.txt", photos, "--output", data)
    lists = ("--wordnet", "--categories", *categories, "--lines", data / "texts.txt")
    yield step(
        distil_text_tower.main,
        tower / WEIGHTS_NAME,
        "--teacher",
        teacher,
        "--output",
        tower,
        *lists,
    )
    joined = data / "start.safetensors"
    parts = ("--backbone", backbone, "--text-tower", tower)
    yield step(join_weights.main, joined, *parts, "--output", joined)
    yield regions("names", "--named", "--size", 256)
    yield regions("captions", "--text-tower", teacher, "--score", 0.3)
    yield training("photo_nano_all", joined)
    yield training("photo_nano", output / "photo_nano_all" / WEIGHTS_NAME)


def main(argv: list[str] | None = None) -> int:
    """Run what is not there yet; returns the exit status of the first step that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, metavar="PHOTOS")
    parser.add_argument("--categories", type=Path, nargs="+", required=True, metavar="NAMES")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args(argv)
    for step in steps(args.photos, args.categories, args.output):
        if step.makes.is_file():
            continue
        print(f"{step.run.__module__}: {shlex.join(step.arguments)}", file=sys.stderr)
        if (status := step.run(step.arguments)) != 0:
            return status
    print(f"the model: {args.output / 'photo_nano'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
