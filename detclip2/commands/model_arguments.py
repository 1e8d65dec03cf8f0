"""Arguments of the commands that use a model."""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detclip2.utils.errors import UserError
from detclip2.utils.hub import SCHEME, from_address
from detclip2.utils.model_folder import (
    DEFAULT,
    SHIPPED,
    default_model,
    knowledge,
    read_model_folder,
)
from detclip2.utils.packages_on_demand import import_on_demand
from detclip2.utils.published_glip import PUBLISHED, how_to_get

if TYPE_CHECKING:
    from detclip2.inference.predictor import OpenVocabularyPredictor


def add_model_arguments(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Declare ``--model``, ``--config``, ``--weights``, ``--trust-config``; ``--device`` if so."""
    parser.add_argument(
        "--model",
        type=model_argument,
        metavar="NAME|DIR",
        help=f"a model that ships with detclip2 ({', '.join(SHIPPED)}), a folder with config.yaml "
        f"and model.safetensors, or {SCHEME}OWNER/NAME[@REVISION], a repository of the Hugging "
        f"Face Hub, fetched once (default: $DETCLIP2_MODEL, else {DEFAULT}); for the "
        "name of published weights, such as glip-t, it is said how to get them",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="a LazyConfig, .py or .yaml; needs --weights"
    )
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help=".safetensors or .pth; needs --config"
    )
    if device:
        parser.add_argument(
            "--device", help='"cpu", "cuda", ... (default: the GPU if there is one)'
        )
    add_trust_argument(parser)


def model_argument(text: str) -> str | Path:
    """The name of a shipped model or an address of the hub as it is, anything else as a path:
    ``./emoji_nano``, too.
    """
    return text if text in SHIPPED or text.startswith(SCHEME) else Path(text)


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
        if str(args.model) in PUBLISHED and not Path(args.model).exists():
            raise UserError(f"--model {how_to_get(str(args.model))}")
        is_address = isinstance(args.model, str) and args.model.startswith(SCHEME)
        return read_model_folder(from_address(args.model) if is_address else args.model)
    if args.config is None or args.weights is None:
        raise UserError("--config and --weights go together: give both, or --model")
    return args.config, args.weights


def check_model_arguments(args: argparse.Namespace) -> None:
    """Check that the files of a model exist, before torch is imported.

    Raises:
        UserError: as `config_and_weights`, or a file does not exist.
    """
    config, weights = config_and_weights(args)
    for path, what in ((config, "config"), (weights, "weights file")):
        if not os.path.isfile(path):
            raise UserError(f"{path} does not exist: there is no {what} of this name")


def load_predictor(args: argparse.Namespace, **settings: Any) -> "OpenVocabularyPredictor":
    """The predictor of a command; of the default model, what it knows is printed first.

    Args:
        args: with the arguments of `add_model_arguments`.
        **settings: of the predictor.

    Raises:
        UserError: as `config_and_weights` and `OpenVocabularyPredictor`.
    """
    config, weights = config_and_weights(args)
    if (args.model or args.config) is None and (known := knowledge(config)):
        print(f"detclip2: {known}", file=sys.stderr)
    import_on_demand()
    from detclip2.inference.predictor import OpenVocabularyPredictor

    return OpenVocabularyPredictor(
        config, weights, args.device, trust_config=args.trust_config, **settings
    )
