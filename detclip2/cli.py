"""The command ``detclip2``: one module of `detclip2.commands` for each subcommand."""

import argparse
import difflib
import importlib
import io
import os
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from detclip2 import __version__
from detclip2.utils.busy_machine import adapt_to_load
from detclip2.utils.errors import UserError, missing_package
from detclip2.utils.quiet import without_upstream_warnings

# Subcommand -> help in one line. Its module (`-` becomes `_`) is imported only when it
# is called, so that `detclip2 --help` loads no framework.
COMMANDS = {
    "ask": "answer a question about an image, and show what its phrases mean",
    "calibrate": "turn scores into shares of right detections",
    "caption": "write a caption of an image, and show what its phrases mean",
    "check-data": "count and try the data of a training config",
    "check-env": "print versions, Detectron2, device and problems",
    "concepts": "build a concept dictionary of names and definitions",
    "convert": "make a model folder of published weights of GLIP",
    "corrected": "make training data of labels that a person has corrected",
    "evaluate": "measure AP on own annotations, or on a config's test sets",
    "explain": "draw the region that each phrase of a caption selects",
    "export": "write a model as a graph of ONNX or OpenVINO",
    "few-shot": "make few-shot splits of annotations",
    "finetune": "train a model on annotations in COCO's format",
    "label": "annotate folders of images for other tools, restartably",
    "odinw": "evaluate a model on the data sets of ODinW on disk",
    "phrases": "extract noun phrases from captions, in parallel",
    "plan": "print the samples, memory and time of a training",
    "predict": "detect named things in images and videos",
    "run": "detect with an exported graph, without PyTorch",
    "scenes": "draw samples of EmojiScenes as a contact sheet",
    "serve": "detect in images that come by HTTP",
    "show-data": "draw samples of a source of a training config",
    "train": "train, resume or evaluate a config",
    "vocabulary": "encode names once, into a vocabulary file",
    "web": "try a model on a page in the browser",
}

EXIT_CODES = """\
  0  all is done
  1  a fault of this program
  2  a mistake that can be fixed, or one of several files could not be read
  141  nothing reads the output any more, as after `| head`"""

NO_READER = 141  # what shells report of other programs: 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code, see `EXIT_CODES`; Python exits with 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name need not be UTF-8, and a terminal need not show all characters.
            stream.reconfigure(errors="backslashreplace")
    adapt_to_load()
    try:
        with without_upstream_warnings():
            args = _parse(list(sys.argv[1:] if argv is None else argv))
            code = args.run(args) or 0
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        if _output_has_a_reader():  # another pipe
            raise
        return NO_READER
    except UserError as error:
        print(f"detclip2: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        if not (sentence := missing_package(error)):
            raise
        print(f"detclip2: {sentence}", file=sys.stderr)
    return 2


def _output_has_a_reader() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more at its end, and would complain there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, with the nearest names."""

    def error(self, message: str) -> NoReturn:
        # After the last subcommand, words that no parser knows are reported by the first one.
        known = [*COMMANDS] if self.prog == "detclip2" else []
        parsers = [self, *_subparsers(self)]
        known += [option for parser in parsers for option in parser._option_string_actions]
        wrong = re.search(r"invalid choice: '([^']*)'|arguments: (\S+)", message)
        word = "" if wrong is None else (wrong[1] or wrong[2]).partition("=")[0]
        near = difflib.get_close_matches(word, known, n=1) if word else []
        message = re.sub(r" \(choose from .*\)", "", message)
        end = f"; did you mean {near[0]}?" if near else "."
        self.exit(2, f"{self.prog}: {message.removesuffix('.')}{end} See {self.prog} --help.\n")


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser of the chosen subcommand, which has arguments."""
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return [one for action in actions for one in action.choices.values() if one.epilog]


class _PrintCompletion(argparse.Action):
    """Prints a script that completes words in a shell, by shtab, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *values: Any, **_: Any) -> None:
        try:
            import shtab
        except ModuleNotFoundError:
            raise UserError("the completion of words needs shtab: pip install shtab") from None
        print(shtab.complete(_parser(COMMANDS, for_completion=True), values[1]))
        parser.exit()


def _parse(argv: list[str]) -> argparse.Namespace:
    chosen = next((word for word in argv if not word.startswith("-")), None)
    return _parser([] if chosen is None else [chosen]).parse_args(argv or ["--help"])


def _parser(commands: Collection[str], for_completion: bool = False) -> _Parser:
    """The parser of the command line.

    Args:
        commands: whose arguments are declared; modules take time to import.
        for_completion: give each command its help, which shtab needs; else the epilog lists them.
    """
    listed = "\n".join(f"  {name:12}{help_text}" for name, help_text in COMMANDS.items())
    parser = _Parser(
        prog="detclip2",
        description="Open-vocabulary detection.",
        epilog=f"commands:\n{listed}\n\nexit codes:\n{EXIT_CODES}\n\n"
        "example:\n  detclip2 predict --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"detclip2 {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        metavar="SHELL",
        choices=("bash", "zsh", "tcsh"),
        help="print a script that completes commands and options: bash, zsh or tcsh",
    )
    subparsers = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, help="one of the commands below"
    )
    for name, help_text in COMMANDS.items():
        more: dict[str, Any] = {"help": help_text} if for_completion else {}
        subparser = subparsers.add_parser(
            name,
            description=help_text,
            **more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in commands:
            module = importlib.import_module(f"detclip2.commands.{name.replace('-', '_')}")
            subparser.epilog = f"example:\n  {module.EXAMPLE}"
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
