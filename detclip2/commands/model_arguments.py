"""Arguments of the commands that use a model."""

import argparse
from pathlib import Path

from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import default_model, read_model_folder


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--model``, ``--config``, ``--weights``, ``--device`` and ``--trust-config``."""
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="a folder with config.yaml and model.safetensors (default: $DETCLIP2_MODEL, else the "
        "model that ships with detclip2)",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a LazyConfig, .py or .yaml; needs --weights"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help=".safetensors or .pth; needs --config"
    )
    parser.add_argument("--device", help='"cpu", "cuda", ... (default: the GPU if there is one)')
    add_trust_argument(parser)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--trust-config``."""
    parser.add_argument(
        "--trust-config",
        action="store_true",
        help="let a .yaml config build anything it names, which may run any code, as a .py config "
        "always may",
    )


def config_and_weights(args: argparse.Namespace) -> tuple[Path, Path]:
    """The paths of config and weights; those of the default model without arguments.

    Raises:
        UserError: the arguments contradict each other, or the model does not exist.
    """
    if args.model is None and args.config is None and args.weights is None:
        return default_model()
    if args.model is not None:
        if args.config is not None or args.weights is not None:
            raise UserError("give --model, or --config and --weights, not both")
        return read_model_folder(args.model)
    if args.config is None or args.weights is None:
        raise UserError("--config and --weights go together: give both, or --model")
    return args.config, args.weights
