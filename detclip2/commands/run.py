"""``detclip2 run``: detect with an exported graph. It imports neither PyTorch nor transformers."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detclip2.export.runner import Detections, Runner
from detclip2.utils.errors import UserError

EXAMPLE = "detclip2 run detector.onnx street.jpg --vocabulary names.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("graph", type=Path, metavar="GRAPH", help="a file of `detclip2 export`")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="an image")
    parser.add_argument(
        "--vocabulary",
        type=Path,
        metavar="FILE",
        help="a saved vocabulary (.safetensors), for a graph that has it as an input",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one line of json for each image instead"
    )
    parser.add_argument(
        "--score-threshold", type=float, metavar="X", help="instead of the one in the graph's file"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="(default: one for each core)")


def run(args: argparse.Namespace) -> int:
    """Detect in every file; return 2 if one of them failed."""
    runner = Runner(
        args.graph,
        args.vocabulary,
        threads=args.threads,
        score_threshold=args.score_threshold,
    )
    failed = 0
    for file in args.files:
        try:
            found = runner(file)
        except UserError as error:
            print(f"detclip2: {error}", file=sys.stderr)
            failed += 1
            continue
        if args.json:
            print(json.dumps(record_of(file, found), ensure_ascii=False), flush=True)
            continue
        print(f"{file}: {len(found)} found")
        for label, score, box in found:
            print(f"  {score:.3f}  {', '.join(f'{corner:.0f}' for corner in box)}  {label}")
    return 2 if failed else 0


def record_of(file: Path, found: Detections) -> dict[str, Any]:
    """The record that ``detclip2 predict --json`` writes for an image."""
    height, width = found.image_size
    rows = [
        {"label": label, "category_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for (label, score, (x1, y1, x2, y2)), number in zip(
            found, found.classes.tolist(), strict=True
        )
    ]
    return {"file_name": str(file), "width": width, "height": height, "detections": rows}
