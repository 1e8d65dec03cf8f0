"""Train, resume or evaluate DetCLIPv2 from a LazyConfig, on one process or many.

    python projects/DetCLIPv2/train_net.py --config-file CONFIG [--resume | --eval-only]
        [--num-gpus N] [--trust-config] [key=value ...]

CONFIG is a file, or the name of a config of this project. It reads these keys of the config, and no
others:

- ``model``; for training ``optimizer`` (its ``params.model`` is set here) and ``lr_multiplier``
- ``dataloader.train``: a HybridLoader; ``dataloader.test``: a Detectron2 test loader;
  ``dataloader.evaluator``; ``dataloader.vocabulary``: the vocabulary of the evaluation;
  ``dataloader.tests``: name -> ``loader``, ``evaluator``, ``vocabulary`` of further test sets
- ``train``: see configs/train.py

``detclip2 train`` runs the same code.
"""

from typing import Any

from detclip2.utils.environment import require_packages

require_packages("train_net")

from detectron2.engine import default_argument_parser

from detclip2.commands.model_arguments import add_trust_argument
from detclip2.commands.train import run_in_process, train_or_evaluate
from detclip2.engine.launch import run_processes


def main(args: Any) -> dict[str, Any]:
    """Set up one process, then train or evaluate."""
    return train_or_evaluate(args)


def run(args: Any) -> None:
    """``main``; a mistake of the user is one sentence and exit code 2."""
    run_in_process(args, "train_net")


if __name__ == "__main__":
    parser = default_argument_parser(__doc__)
    add_trust_argument(parser)
    run_processes(run, parser.parse_args())
