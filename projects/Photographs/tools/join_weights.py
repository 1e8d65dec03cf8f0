r"""Join the weights that a training on photographs starts from into one file.

    python -m projects.Photographs.tools.join_weights --backbone FILE --text-tower DIR \
        --output output/photographs/start.safetensors

FILE is of ``scripts.fetch_starting_weights``, DIR of ``scripts.distil_text_tower``. The output is
``train.init_checkpoint`` of the configs; what it lacks (pyramid and head) starts at random.
"""

import argparse
import sys
from pathlib import Path

import detclip2  # noqa: F401  (first, as it offers the stand-in for Detectron2)

# isort: split
from detectron2.config import instantiate
from safetensors.torch import save

from detclip2.config import get_config
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_whole
from detclip2.utils.weights import State

PARTS = ("backbone.bottom_up.", "text_tower.")


def joined(backbone: str, text_tower: str) -> State:
    """The weights of both, with their names in the model.

    Raises:
        UserError: a file is missing or does not fit.
    """
    node = get_config("photo_nano_boxes").model
    node.backbone.bottom_up.weights = backbone
    node.text_tower.model.update(path=text_tower, pretrained=True)
    state = instantiate(node).state_dict()
    return {name: t.contiguous() for name, t in state.items() if name.startswith(PARTS)}


def main(argv: list[str] | None = None) -> int:
    """Join; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", required=True, metavar="FILE")
    parser.add_argument("--text-tower", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    try:
        state = joined(args.backbone, args.text_tower)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.output, lambda file: file.write(save(state)))
    print(f"{args.output}: {len(state)} entries")
    return 0


if __name__ == "__main__":
    sys.exit(main())
