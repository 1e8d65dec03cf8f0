"""Train, resume or evaluate DetCLIPv2 from a LazyConfig, on one process or many.

    python projects/DetCLIPv2/train_net.py --config-file CONFIG [--resume | --eval-only]
        [--num-gpus N] [key=value ...]

It reads these keys of the config, and no others:

- ``model``; ``optimizer`` (its ``params.model`` is set here); ``lr_multiplier``
- ``dataloader.train``: a HybridLoader; ``dataloader.test``: a Detectron2 test loader;
  ``dataloader.evaluator``: its ``dataset_name`` gives the names to detect
- ``train``: see detclip2/engine/defaults.py
"""

import sys
from typing import Any

from detclip2.utils.environment import require_packages

require_packages("train_net")

from detectron2.engine import default_argument_parser

from detclip2.config import build_model
from detclip2.engine.launch import run_processes
from detclip2.engine.train_loop import evaluate, set_up, train
from detclip2.utils.errors import UserError
from detclip2.utils.weights import load_weights


def main(args: Any) -> dict[str, Any]:
    """Set up one process and do what the arguments say."""
    cfg = set_up(args)
    model = build_model(cfg, args.config_file).to(cfg.train.device)
    if not args.eval_only:
        return train(cfg, model, args.resume)
    if not cfg.train.init_checkpoint:
        raise UserError("--eval-only needs weights: add train.init_checkpoint=FILE")
    load_weights(model, cfg.train.init_checkpoint)
    return evaluate(cfg, model.eval())


def run(args: Any) -> None:
    """``main``; a mistake that the user can mend is one sentence and exit code 2."""
    try:
        main(args)
    except UserError as error:
        print(f"train_net: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run_processes(run, default_argument_parser(__doc__).parse_args())
