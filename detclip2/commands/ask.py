"""``detclip2 ask``: answer a question about an image, and show what its phrases mean."""

import argparse

from detclip2.commands.grounded_text import add_output_arguments, check_files, write_files
from detclip2.commands.model_arguments import load_predictor
from detclip2.inference.language import ask
from detclip2.modeling.thresholds import DetectionThresholds

EXAMPLE = 'detclip2 ask kitchen.jpg "how many cats are there?" --model model --output figure.png'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_output_arguments(parser)
    parser.add_argument("question", help='about the image, such as "is there a dog?"')


def run(args: argparse.Namespace) -> int:
    """Print the answers and the boxes of the question's phrases, and write the files."""
    check_files(args)
    predictor = load_predictor(args, thresholds=DetectionThresholds(args.threshold))
    found = ask(predictor, args.image, args.question)
    answers = [
        {"answer": answer, "probability": probability}
        for answer, probability in zip(found.answers, found.probabilities, strict=True)
    ]
    for row in answers:
        print(f"{row['answer']}: {row['probability']:.2f}")
    write_files(args, found, {"question": found.text, "answers": answers})
    return 0
