"""``detclip2 web``: a page to try a model in a browser."""

import argparse
import threading

from detclip2.commands.model_arguments import (
    add_model_arguments,
    check_model_arguments,
    config_and_weights,
    load_predictor,
)
from detclip2.commands.serve import add_address_arguments
from detclip2.utils.model_folder import knowledge
from detclip2.utils.optional import extra
from detclip2.utils.packages_on_demand import import_on_demand

EXAMPLE = "detclip2 web --model emoji_nano"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_address_arguments(parser, 7860)
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    check_model_arguments(args)
    import_on_demand()
    with extra("web", "detclip2 web"):
        from detclip2.serving.page import build, launch

    config, _ = config_and_weights(args)
    note = knowledge(config) if config.suffix == ".yaml" else ""
    page = build(load_predictor(args), note)
    print(f"detclip2 shows its page at {launch(page, args.host, args.port)}", flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)
    return 0
