"""``detclip2 serve``: detect in images that come by HTTP."""

import argparse
import contextlib
import logging
from typing import TYPE_CHECKING

from detclip2.commands.model_arguments import (
    add_model_arguments,
    check_model_arguments,
    load_predictor,
)
from detclip2.commands.numbers import positive
from detclip2.data.text.names import BUILTIN_NAMES
from detclip2.serving.limits import Limits
from detclip2.utils.optional import extra
from detclip2.utils.packages_on_demand import import_on_demand

if TYPE_CHECKING:
    from detclip2.inference.vocabulary import Vocabulary

MIB = 2**20

EXAMPLE = "detclip2 serve --port 8000 --vocabulary coco"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_address_arguments(parser, 8000)
    parser.add_argument(
        "--vocabulary",
        metavar="FILE|NAME",
        help="what requests detect that name nothing: a saved vocabulary (.safetensors), a file of "
        f"names, or a built-in list: {', '.join(BUILTIN_NAMES)}",
    )
    add_model_arguments(parser)
    group = parser.add_argument_group("limits", "what a request may cost")
    default = Limits()
    for option, kind, value, meaning in (
        ("--max-megabytes", float, default.body_bytes / MIB, "a request, MiB"),
        ("--max-megapixels", float, default.pixels / 1e6, "an image, megapixels"),
        ("--max-names", int, default.names, "names in a request"),
        ("--cached-names", int, default.cached_names, "names that are kept encoded"),
        ("--timeout", float, default.seconds, "seconds to receive a request, and to answer it"),
        ("--max-waiting", int, default.waiting, "requests that wait for their answer"),
        ("--max-connections", int, default.connections, "open connections"),
        ("--batch-size", int, default.batch_size, "images that are detected at once"),
    ):
        group.add_argument(
            option,
            type=positive(kind),
            default=value,
            metavar="N",
            help=f"{meaning} (default: {value:g})",
        )


def add_address_arguments(parser: argparse.ArgumentParser, port: int) -> None:
    """Declare ``--host`` and ``--port``."""
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0: all of this machine (default: 127.0.0.1, which only "
        "programs of this machine reach)",
    )
    parser.add_argument(
        "--port", type=int, default=port, help=f"0: any that is free (default: {port})"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM."""
    limits = Limits(
        body_bytes=int(args.max_megabytes * MIB),
        pixels=int(args.max_megapixels * 1e6),
        names=args.max_names,
        cached_names=args.cached_names,
        seconds=args.timeout,
        waiting=args.max_waiting,
        connections=args.max_connections,
        batch_size=args.batch_size,
    )
    check_model_arguments(args)
    import_on_demand()
    with extra("serve", "detclip2 serve"):
        from detclip2.serving.server import listen, make_server

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    with listen(args.host, args.port) as socket:  # before the model is loaded
        vocabulary = None if args.vocabulary is None else _vocabulary(args.vocabulary)
        predictor = load_predictor(args)
        if vocabulary is not None:
            predictor.set_vocabulary(vocabulary)
        server = make_server(predictor, limits)
        host, port = socket.getsockname()[:2]
        print(
            f"detclip2 serves at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True
        )
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[socket])
    return 0


def _vocabulary(text: str) -> "Vocabulary":
    from detclip2.inference.vocabulary import Vocabulary

    if text in BUILTIN_NAMES:
        return Vocabulary.builtin(text)
    return Vocabulary.load(text) if text.endswith(".safetensors") else Vocabulary.from_file(text)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
