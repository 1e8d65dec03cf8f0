"""The command ``detclip2``: one module of :mod:`detclip2.commands` for each subcommand."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from detclip2 import __version__
from detclip2.utils.errors import UserError, missing_package
from detclip2.utils.quiet import without_upstream_warnings

# Subcommand -> help. Its module (`-` becomes `_`) is imported only when it is called, so that
# `detclip2 --help` loads no framework. A module has `add_arguments(parser)` and `run(args)`.
COMMANDS = {
    "check-env": "print versions, the Detectron2 in use, the device, and what is missing",
    "explain": "draw which region of a picture each phrase of a caption chooses",
    "finetune": "train a model on your own annotations in COCO's format",
    "odinw": "measure a model on the data sets of ODinW that are on disk",
    "phrases": "extract the noun phrases of captions, for millions of them",
    "plan": "print what a training will take: iterations, samples, memory, time",
    "predict": "detect what you name in pictures and videos, and draw it",
    "scenes": "draw samples of EmojiScenes as a contact sheet",
    "show-data": "draw what a source of a training config gives to the model",
    "vocabulary": "encode names once, into a file that stands for them",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code (0 good, 2 a mistake the user can mend)."""
    try:
        with without_upstream_warnings():
            args = _parse(list(sys.argv[1:] if argv is None else argv))
            return args.run(args) or 0
    except UserError as error:
        print(f"detclip2: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if not (sentence := missing_package(error)):
            raise
        print(f"detclip2: {sentence}", file=sys.stderr)
    return 2


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="detclip2", description="Open-vocabulary detection.")
    parser.add_argument("--version", action="version", version=f"detclip2 {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, help_text in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=help_text, description=help_text)
        if name == chosen:
            module = importlib.import_module(f"detclip2.commands.{name.replace('-', '_')}")
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
