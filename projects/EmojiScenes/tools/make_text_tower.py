r"""Make a text tower that knows some English, from WordNet alone and without any network.

    python -m projects.EmojiScenes.tools.make_text_tower --output DIR [--wordnet DIR]

The nano text tower starts as a bag of words whose tokens have random vectors, so its embeddings of
untrained names mean nothing. Here, vectors of tokens come from co-occurrence in WordNet's synonyms,
definitions and hypernyms (latent semantic analysis): "lorry" is close to "truck", and "puppy" to
"dog". Use it where no sentence encoder is available.

The folder is in transformers' format. A run takes it by

    model.text_tower.model._target_=detclip2.modeling.text.text_tower.load_text_model \
    model.text_tower.model.path=FOLDER

Needs nltk and WordNet's files (Debian: wordnet-base), whose licence is free.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from detclip2.data.text.concept_sources import WORDNET_FOLDER, WordNet
from detclip2.modeling.text.text_tower import fresh_text_model, load_tokenizer, resolve_folder
from detclip2.utils.errors import UserError

TOWER = "resource://text_tower_nano"
# Share of the squared length of a token's vector that is its own: similar things stay
# distinguishable.
OWN = 0.3


def latent_vectors(
    documents: Sequence[Sequence[int]], size: int, width: int, own: float = OWN, seed: int = 0
) -> Tensor:
    """Vectors of tokens that are near where the tokens occur in the same documents.

    The columns of the matrix of tf-idf are documents of unit length; its `width` largest singular
    vectors on the side of the tokens are taken. Tokens that never occur have random vectors.

    Args:
        documents: tokens, 0 to `size` - 1.
        size: tokens in all, V.
        width: D.
        own: share of the squared length that is random, in [0, 1].
        seed: of what is random.

    Returns:
        (V, D), each vector with a mean square of 1.
    """
    counts = [Counter(document) for document in documents]
    frequency = Counter(token for count in counts for token in count)
    entries = [(t, d, n) for d, count in enumerate(counts) for t, n in count.items()]
    tokens, columns, numbers = torch.tensor(entries, dtype=torch.int64).reshape(-1, 3).T
    rarity = torch.tensor([frequency[t] or 1 for t in range(size)]).double()
    rarity = (len(documents) / rarity).log()
    values = (1 + numbers.double().log()) * rarity[tokens]
    lengths = torch.zeros(len(documents), dtype=torch.float64).index_add(0, columns, values**2)
    values = values / lengths.sqrt().clamp(min=1e-12)[columns]
    matrix = torch.sparse_coo_tensor(
        torch.stack([tokens, columns]), values, (size, len(documents)), check_invariants=True
    ).coalesce()
    torch.manual_seed(seed)
    rank = min(width, size, len(documents))
    left, strength, _ = torch.svd_lowrank(matrix, q=rank, niter=4)
    shared = torch.zeros(size, width, dtype=torch.float64)
    shared[:, :rank] = left * strength.sqrt()
    random = F.normalize(torch.randn(size, width, dtype=torch.float64), dim=1)
    occurs = shared.norm(dim=1, keepdim=True) > 1e-9
    mixed = (1 - own) ** 0.5 * F.normalize(shared, dim=1) + own**0.5 * random
    return (F.normalize(torch.where(occurs, mixed, random), dim=1) * width**0.5).float()


def texts_of(entries: Iterable[Any]) -> list[str]:
    """One text a synset: its names, its definition, and the names of what it is a kind of."""
    texts = []
    for synset in entries:
        above = [kind for first in synset.hypernyms() for kind in (first, *first.hypernyms())]
        names = [name for kind in (synset, *above) for name in kind.lemma_names()]
        texts.append(" ".join([*names, synset.definition()]).replace("_", " "))
    return texts


def write_tower(texts: Sequence[str], folder: Path) -> None:
    """A nano text tower, and its tokenizer, with vectors from the texts."""
    made_of = resolve_folder(TOWER)
    model: Any = fresh_text_model(made_of)
    tokenizer = load_tokenizer(made_of)
    embedding = model.get_input_embeddings().weight
    documents = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        embedding.copy_(latent_vectors(documents, *embedding.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(argv: list[str] | None = None) -> int:
    """Read WordNet and write the folder; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--wordnet", type=Path, default=WORDNET_FOLDER, metavar="DIR")
    args = parser.parse_args(argv)
    try:
        texts = texts_of(WordNet(args.wordnet).nouns())
        write_tower(texts, args.output)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: a text tower from {len(texts)} definitions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
