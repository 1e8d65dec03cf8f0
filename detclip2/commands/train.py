"""``detclip2 train``: train, resume or evaluate a LazyConfig, on one process or many.

``projects/DetCLIPv2/train_net.py`` does the same with Detectron2's options, and lists the keys of a
config.
"""

import argparse
import sys
from typing import Any

from detectron2.engine import default_argument_parser

from detclip2.commands.model_arguments import add_trust_argument
from detclip2.config import build_model
from detclip2.engine.launch import run_processes
from detclip2.engine.test_sets import check_test_sets
from detclip2.engine.train_loop import evaluate, evaluation_nodes, set_up, train
from detclip2.utils.errors import UserError
from detclip2.utils.repository import config_of_user, runnable_names
from detclip2.utils.weights import load_weights

EXAMPLE = "detclip2 train --config emoji_nano_detection train.output_dir=output"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    names = "\n".join(f"  {name}" for name in runnable_names())
    parser.epilog = f"{parser.epilog}\n\nconfigs by name:\n{names}"
    parser.add_argument(
        "--config", required=True, metavar="NAME|FILE", help="a name from below, or a .py or .yaml"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the output folder",
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate without training")
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        metavar="N",
        help="processes on this machine (default: 1)",
    )
    parser.add_argument(
        "--num-machines", type=int, default=1, metavar="N", help="number of machines (default: 1)"
    )
    parser.add_argument(
        "--machine-rank",
        type=int,
        default=0,
        metavar="I",
        help="index of this machine (default: 0)",
    )
    parser.add_argument(
        "--dist-url", metavar="URL", help="where processes meet; auto: a free port of one machine"
    )
    add_trust_argument(parser)
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="config changes, such as train.max_iter=100 train.output_dir=DIR",
    )


def run(args: argparse.Namespace) -> int:
    """Start the processes."""
    # Detectron2's arguments, with its defaults.
    arguments = default_argument_parser().parse_args(["--config-file", args.config])
    for key, value in vars(args).items():
        if value is not None and hasattr(arguments, key):
            setattr(arguments, key, value)
    arguments.opts = args.overrides
    arguments.trust_config = args.trust_config
    run_processes(_run, arguments)
    return 0


def train_or_evaluate(args: argparse.Namespace) -> dict[str, Any]:
    """Train or evaluate in one process.

    Args:
        args: from Detectron2's ``default_argument_parser``; ``config_file`` may also be a name.
            ``trust_config``, if it is there: see `detclip2.config.load_config`.

    Returns:
        The results of the last evaluation, in the main process.

    Raises:
        UserError: the config, the data or the weights are wrong.
    """
    args.config_file = config_of_user(args.config_file)
    cfg = set_up(args)
    model: Any = build_model(cfg, args.config_file).to(cfg.train.device)
    if not args.eval_only:
        return train(cfg, model, args.resume)
    if not cfg.train.init_checkpoint:
        raise UserError("--eval-only needs weights: add train.init_checkpoint=FILE")
    check_test_sets(cfg, evaluation_nodes(cfg).values())
    load_weights(model, cfg.train.init_checkpoint)
    return evaluate(cfg, model.eval())


def run_in_process(args: argparse.Namespace, program: str) -> None:
    """Call `train_or_evaluate`; a UserError is printed, with exit code 2.

    Args:
        args: as for `train_or_evaluate`.
        program: name in front of the message.
    """
    try:
        train_or_evaluate(args)
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)


def _run(args: argparse.Namespace) -> None:
    run_in_process(args, "detclip2")
