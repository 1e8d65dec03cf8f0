"""The time of ``detclip2 label``, as ``detclip2 plan --label`` prints it."""

import argparse
import os
from datetime import timedelta
from itertools import islice
from pathlib import Path

from detclip2.commands.input_files import InputLister
from detclip2.commands.model_arguments import model_argument
from detclip2.commands.numbers import positive
from detclip2.data.io.image_item import ImageItem
from detclip2.utils.errors import UserError
from detclip2.utils.model_folder import default_model, read_model_folder

MEASURED = 24
"""Images that are detected in, spread over all."""


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``--label``."""
    group = parser.add_argument_group("with --label")
    group.add_argument(
        "--images", type=positive(int), metavar="N", help="number of images to be labelled "
        "(default: those that --label names)"
    )  # fmt: skip
    group.add_argument(
        "--model", type=model_argument, metavar="NAME|DIR", help="as of `detclip2 label`"
    )
    group.add_argument(
        "--names", type=positive(int), default=80, metavar="N", help="number of names to detect "
        "(default: 80)"
    )  # fmt: skip
    group.add_argument("--tile", type=positive(int), metavar="PX", help="as of `detclip2 label`")
    group.add_argument(
        "--readers", type=positive(int), metavar="N", help="as of `detclip2 label`: threads, each "
        "with a core (default: 4, or fewer cores)"
    )  # fmt: skip


def plan_label(args: argparse.Namespace) -> int:
    """Measure reading and detecting on some images, and print the time of all of them."""
    if args.gpus < 1:
        raise UserError(f"--gpus {args.gpus}: expected 1 or more")
    if args.overrides:
        raise UserError(f"{args.overrides[0]}: changes of a config do not go with --label")
    lister = InputLister(Path(os.devnull))
    items = [item for item in lister.items(args.label) if isinstance(item, ImageItem)]
    if lister.errors or not items:
        raise UserError("\n".join(lister.errors) or "there are no images to label")

    from detclip2.commands.plan import device_name
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.inference.vocabulary import Vocabulary
    from detclip2.labelling.detector import Detector, DetectorSettings
    from detclip2.labelling.estimate import label_cost

    config, weights = read_model_folder(args.model) if args.model else default_model()
    predictor = OpenVocabularyPredictor(config, weights, trust_config=args.trust_config)
    names = Vocabulary.from_names([f"thing number {i}" for i in range(args.names)])
    more = {"readers": args.readers} if args.readers else {}
    settings = DetectorSettings("", "", False, names, {}, tile=args.tile, **more)
    chosen = [*islice(items, 0, None, max(1, len(items) // MEASURED))][:MEASURED]
    cost = label_cost(Detector(predictor, settings), chosen)
    device = next(predictor.model.parameters()).device.type
    rate = cost.images_per_second(settings.readers)
    number = args.images or len(items)
    seconds = number / rate
    print(f"images: {number:,}, measured on {len(chosen)} of {len(items):,}")
    print(
        f"an image: {1000 * cost.detecting:.1f} ms to detect on the {device_name(device)} here, "
        f"{1000 * cost.reading:.1f} ms to read and resize in one of {settings.readers} threads"
    )
    if cost.reading / settings.readers > cost.detecting:
        print("reading is the slower one: more --readers on machines with more cores help")
    print(f"a process: {rate:.1f} images/s")
    print(
        f"{args.gpus} processes: {timedelta(seconds=round(seconds / args.gpus))}, "
        f"{seconds / 3600:,.1f} device h, without the start of each and the writing of formats"
    )
    return 0
