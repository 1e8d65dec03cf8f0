"""CIDEr-D (arXiv 1411.5726), the variant that COCO's evaluation of captions reports as CIDEr."""

import math
from collections import Counter
from collections.abc import Sequence

LONGEST = 4
"""Words of the longest n-gram."""
SIGMA = 6.0
"""Words by which a caption may be longer or shorter than another one, softly."""

Words = Sequence[str]
NGrams = Counter[tuple[str, ...]]


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """The consensus of captions with those of people, 0 to 10; papers report 100 times this.

    For each n the n-grams of a sentence are weighted by tf-idf, where a document is all captions of
    an image by people. The similarity of two sentences is the cosine of their weights, clipped to
    those of the reference, times exp(-(difference of lengths)^2 / (2 sigma^2)). It is averaged over
    n, references and images, times 10.

    An n-gram of every image has no weight, so the value of a single image is 0.

    Args:
        captions: one for each image, as words.
        references: for each image the captions of people, at least one.
    """
    ngrams = [[_ngrams(words) for words in of_image] for of_image in references]
    documents = Counter(ngram for of_image in ngrams for ngram in set().union(*of_image))
    scores = []
    for words, own_references, own_ngrams in zip(captions, references, ngrams, strict=True):
        own = _weights(_ngrams(words), documents, len(references))
        similarities = [
            _similarity(own, _weights(counts, documents, len(references)))
            * math.exp(-((len(words) - len(reference)) ** 2) / (2 * SIGMA**2))
            for reference, counts in zip(own_references, own_ngrams, strict=True)
        ]
        scores.append(sum(similarities) / len(similarities))
    return 10 * sum(scores) / len(scores)


def _ngrams(words: Words) -> NGrams:
    return Counter(
        tuple(words[start : start + n])
        for n in range(1, LONGEST + 1)
        for start in range(len(words) - n + 1)
    )


def _weights(
    counts: NGrams, documents: NGrams, num_images: int
) -> list[dict[tuple[str, ...], float]]:
    """For each n the tf-idf of n-grams."""
    found: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
    for ngram, count in counts.items():
        rarity = math.log(num_images / max(documents[ngram], 1))
        found[len(ngram) - 1][ngram] = count * rarity
    return found


def _similarity(
    own: list[dict[tuple[str, ...], float]], reference: list[dict[tuple[str, ...], float]]
) -> float:
    """The mean over n of the clipped cosine."""
    total = 0.0
    for mine, theirs in zip(own, reference, strict=True):
        product = sum(
            min(weight, theirs.get(ngram, 0.0)) * theirs.get(ngram, 0.0)
            for ngram, weight in mine.items()
        )
        lengths = _length(mine) * _length(theirs)
        total += product / lengths if lengths else 0.0
    return total / LONGEST


def _length(weights: dict[tuple[str, ...], float]) -> float:
    return math.sqrt(sum(weight**2 for weight in weights.values()))
