r"""Compare a text tower with the encoder that it was distilled from.

    python -m scripts.compare_text_towers --teacher FOLDER --student FOLDER \
        --synonyms lvis_v1_categories.json --names v3det_names.txt [--sample 1000]

Two measures, each for teacher and student:

- synonyms: the share of synonyms (COCO or LVIS json) whose nearest of all category names is their
  own category's;
- ranking: for a sample of the names, Spearman's correlation of the two rankings of all other names
  by cosine, and how many of the teacher's ten nearest are among the student's ten.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detclip2.data.text.concept_sources import read_categories
from detclip2.data.text.names import read_names
from detclip2.modeling.text.text_tower import TextTower, load_text_model, load_tokenizer
from detclip2.utils.errors import UserError
from scripts.distil_text_tower import teacher_vectors

CHUNK = 256


def student_vectors(folder: str, texts: list[str]) -> Tensor:
    """(M, D) unit vectors of a tower without projection."""
    model, tokenizer = load_text_model(folder), load_tokenizer(folder)
    tower = TextTower(model, tokenizer, embed_dim=None, max_length=24, pooling="mean").eval()
    return F.normalize(tower.encode_phrases(texts), dim=1)


def synonym_accuracy(vectors: Tensor, names: Tensor, synonyms: Tensor, answer: Tensor) -> float:
    """The share of synonyms whose nearest name is the right one.

    Args:
        vectors: (M, D) unit vectors of texts.
        names: (C,) indices of the category names.
        synonyms: (N,) indices of the synonyms.
        answer: (N,) the category of each synonym.
    """
    nearest = (vectors[synonyms] @ vectors[names].T).argmax(1)
    return (nearest == answer).float().mean().item()


def ranking_agreement(first: Tensor, second: Tensor, rows: Tensor) -> tuple[float, float]:
    """Mean Spearman correlation of rankings, and mean overlap of the ten nearest.

    Args:
        first: (M, D) unit vectors.
        second: (M, E) unit vectors of the same texts.
        rows: (N,) the texts whose rankings of the others are compared.
    """
    correlations, overlaps = [], []
    for chunk in rows.split(CHUNK):
        similarities = [vectors[chunk] @ vectors.T for vectors in (first, second)]
        for similarity in similarities:  # the text itself comes last in both
            similarity.scatter_(1, chunk[:, None], -2.0)
        ranks = [s.argsort(1).argsort(1).double() for s in similarities]
        centred = [rank - rank.mean(1, keepdim=True) for rank in ranks]
        correlations.append(F.cosine_similarity(*centred, dim=1))
        best = [s.topk(10, dim=1).indices for s in similarities]
        overlaps.append((best[0][:, :, None] == best[1][:, None]).any(2).double().mean(1))
    return torch.cat(correlations).mean().item(), torch.cat(overlaps).mean().item()


def compare(args: argparse.Namespace) -> dict[str, Any]:
    """The two measures, as numbers by name.

    Raises:
        UserError: a file is missing.
    """
    categories = read_categories(args.synonyms, "categories")
    entries = [(i, text) for i, c in enumerate(categories) for text in c.synonyms]
    names = [entry[0] for entry in read_names(args.names)[0]]
    texts = [*(c.name for c in categories), *(text for _, text in entries), *names]
    teacher_model = load_text_model(args.teacher).eval()
    teacher = teacher_vectors(teacher_model, load_tokenizer(args.teacher), texts)
    student = student_vectors(args.student, texts)
    of_names = torch.arange(len(categories))
    of_synonyms = torch.arange(len(entries)) + len(categories)
    answer = torch.tensor([i for i, _ in entries])
    first = len(categories) + len(entries)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(len(names), generator=generator)[: args.sample]
    correlation, overlap = ranking_agreement(teacher[first:], student[first:], rows)
    return {
        "synonyms": len(entries),
        "synonym accuracy, teacher": synonym_accuracy(teacher, of_names, of_synonyms, answer),
        "synonym accuracy, student": synonym_accuracy(student, of_names, of_synonyms, answer),
        "names": len(names),
        "rank correlation": correlation,
        "overlap of the ten nearest": overlap,
    }


def main(argv: list[str] | None = None) -> int:
    """Compare and print; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True, metavar="DIR")
    parser.add_argument("--student", required=True, metavar="DIR")
    parser.add_argument("--synonyms", type=Path, required=True, metavar="JSON")
    parser.add_argument("--names", type=Path, required=True, metavar="FILE")
    parser.add_argument("--sample", type=int, default=1000, help="names to rank (default 1000)")
    args = parser.parse_args(argv)
    try:
        measured = compare(args)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for key, value in measured.items():
        print(f"{key}: {value:.3f}" if isinstance(value, float) else f"{key}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
