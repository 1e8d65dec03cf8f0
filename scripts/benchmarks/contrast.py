"""Time and memory of one process's share of the word-region contrast in a large global batch.

    python scripts/benchmark.py contrast    # the paper's batch: 6144 image-text pairs on 32 GPUs
    python scripts/benchmark.py contrast --images 384 --processes 4 --dtype bfloat16

The other processes are simulated: their phrases are made here, as if gathered, and their sums of
the softmax, five numbers a text, are ignored. The floor is the only matrix product that forward
cannot avoid, every distinct phrase with every region, alone and in the same precision. It goes to
memory that is used again: new pages for it would take up to half as long as the product.
"""

import argparse
from typing import get_args

import torch

from detclip2.modeling.alignment import Alignment
from detclip2.modeling.losses.text_image_similarity import Texts
from detclip2.modeling.losses.word_region_contrast import Direction, Matching, WordRegionContrast

from .timing import in_turns, peak_memory, spread, work_seconds

SIZES = ("images", "processes", "regions", "words", "width", "matching", "direction")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this subject."""
    parser.add_argument(
        "--images", type=int, default=6144, help="image-text pairs in the global batch"
    )
    parser.add_argument("--processes", type=int, default=32, help="that share the global batch")
    parser.add_argument("--regions", type=int, default=100, help="R, proposals an image")
    parser.add_argument("--words", type=int, default=7, help="phrases of a text, all distinct")
    parser.add_argument("--width", type=int, default=256, help="D, of embeddings")
    parser.add_argument("--matching", default="one_to_one", choices=get_args(Matching))
    parser.add_argument("--direction", default="text_to_image", choices=get_args(Direction))


def measure(args: argparse.Namespace) -> dict[str, object]:
    """The arguments, seconds of work, and the memory peak including the inputs."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    contrast = WordRegionContrast(matching=args.matching, direction=args.direction)
    contrast.negatives = "local"  # the phrases of the other processes are already here
    align = Alignment().to(device)
    memory_before = peak_memory(args.device)

    torch.manual_seed(0)
    local = args.images // args.processes
    regions = torch.randn(local, args.regions, args.width, device=device, requires_grad=True)
    words = torch.randn(args.images * args.words, args.width, device=device, requires_grad=True)
    valid = torch.ones(local, args.regions, dtype=torch.bool, device=device)
    numbers = torch.arange(len(words)).view(args.images, args.words).tolist()
    texts = Texts.from_lists(numbers, device)
    images = torch.arange(local, device=device)

    def step() -> None:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            embedded = contrast.embed(regions, words, align)
            losses = contrast.losses_of_texts(
                embedded[0], valid, valid.float(), embedded[1], texts, images
            )
        losses.mean().backward()
        regions.grad = words.grad = None

    step()
    memory = peak_memory(args.device) - memory_before

    block = 2**10 if device.type == "cpu" else len(words)  # on CPUs, the product stays in the cache
    product = torch.empty(1000 * block, device=device, dtype=dtype)

    @torch.no_grad()
    def floor() -> None:
        for left in regions.to(dtype).flatten(0, 1).split(1000):
            for right in words.to(dtype).split(block):
                shape = len(left), len(right)
                torch.mm(left, right.T, out=product[: shape[0] * shape[1]].view(shape))

    floor()
    rows = [*in_turns((step, floor), args.repeats, lambda call: work_seconds(call, args.device))]
    return {
        **{name: getattr(args, name) for name in SIZES},
        "seconds": spread([step for step, _ in rows]),
        "floor_seconds": spread([floor for _, floor in rows]),
        "ratio": spread([step / floor for step, floor in rows]),
        "peak_MiB": round(memory / 2**20),
    }
