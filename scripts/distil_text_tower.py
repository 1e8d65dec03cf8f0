r"""Distil a sentence encoder into a small text tower with its own tokenizer.

    python -m scripts.distil_text_tower --teacher FOLDER --output DIR --wordnet \
        --categories lvis=lvis_v1_categories.json v3det=v3det_names.txt --lines captions.txt \
        [--pieces 10000] [--width 256] [--layers 2] [--epochs 4]

The teacher is a BERT with mean pooling, such as all-MiniLM-L6-v2. The student is a BERT too:

- its tokenizer is the teacher's, without the pieces that the texts do not need: the characters
  stay, so every word can still be written;
- its vectors of pieces start as the teacher's, in the principal axes of the teacher's embeddings;
- the mean over a text's own tokens learns to be the teacher's unit vector in these axes, by cosine
  and by the similarities within a batch. So the tower needs no projection (``embed_dim=None``).

The texts are names, synonyms and definitions of category lists, names of WordNet's physical
entities (--wordnet), and lines of text files. Weights are stored in half precision. The files are
read by ``load_text_model`` and ``load_tokenizer``.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.concept_sources import WORDNET_FOLDER, WordNet, read_categories
from detclip2.modeling.text.text_tower import load_text_model, load_tokenizer
from detclip2.utils.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_TOKENS = 24
"""Tokens of a text that teacher and student read, start and end included."""
BATCH = 256


def texts_of_categories(path: Path) -> Iterator[str]:
    """Names, synonyms and definitions of a category list (see `read_categories`)."""
    for concept in read_categories(path, "categories"):
        yield from (concept.name, *concept.synonyms)
        if concept.definition:
            yield f"{concept.name}, {concept.definition}"


def texts_of_wordnet(folder: Path) -> Iterator[str]:
    """The names of WordNet's physical entities."""
    for concept in WordNet(folder).below("physical_entity.n.01"):
        yield from (concept.name, *concept.synonyms)


def trim_tokenizer(content: dict[str, Any], counts: Counter[str], pieces: int) -> dict[str, Any]:
    """The json of a WordPiece tokenizer with its most frequent pieces.

    Args:
        content: of tokenizer.json.
        counts: occurrences of pieces. Special ones and single characters stay in any case.
        pieces: how many stay.

    Returns:
        The same json with ids from 0, the special pieces first.
    """
    known = content["model"]["vocab"]
    kept = [piece for piece in SPECIAL if piece in known]
    characters = [p for p in known if len(p.removeprefix("##")) == 1 and p.isascii()]
    frequent = [piece for piece, _ in counts.most_common() if piece in known]
    chosen = list(dict.fromkeys([*kept, *characters, *frequent]))[:pieces]
    rest = sorted(set(chosen) - set(kept), key=known.__getitem__)
    vocabulary = {piece: i for i, piece in enumerate([*kept, *rest])}
    trimmed = json.loads(json.dumps(content))
    trimmed["model"]["vocab"] = vocabulary
    trimmed.update(truncation=None, padding=None)
    for token in trimmed["added_tokens"]:
        token["id"] = vocabulary[token["content"]]
    for piece, entry in trimmed["post_processor"]["special_tokens"].items():
        entry["ids"] = [vocabulary[piece]]
    return trimmed


def write_tokenizer(teacher: Path, counts: Counter[str], pieces: int, folder: Path) -> list[int]:
    """Write the trimmed tokenizer of a teacher; return the teacher's id of each piece."""
    content = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    trimmed = trim_tokenizer(content, counts, pieces)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(trimmed, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    config = {f"{key}_token": value for key, value in names.items()}
    config.update(tokenizer_class="PreTrainedTokenizerFast", model_max_length=MAX_TOKENS)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    return [content["model"]["vocab"][piece] for piece in trimmed["model"]["vocab"]]


def by_length(tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
    """Tokens of each text, and batches of indices of texts of similar length."""
    tokens = tokenizer(list(texts), truncation=True, max_length=MAX_TOKENS)["input_ids"]
    order = sorted(range(len(texts)), key=lambda i: len(tokens[i]))
    return tokens, [order[i : i + BATCH] for i in range(0, len(order), BATCH)]


def padded(tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, (M, T) int64, padded with 0."""
    rows = [torch.tensor(row) for row in tokens]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = torch.tensor([len(row) for row in tokens])
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


@torch.no_grad()
def teacher_vectors(model: nn.Module, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """(M, W) unit vectors: the mean over all tokens, as sentence-transformers pools."""
    tokens, batches = by_length(tokenizer, texts)
    vectors = torch.zeros(len(texts), model.config.hidden_size)
    for batch in batches:
        ids, mask = padded([tokens[i] for i in batch])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        sums = (states.float() * mask[..., None]).sum(1)
        vectors[torch.tensor(batch)] = F.normalize(sums, dim=1)
    return vectors


def principal_axes(vectors: Tensor, width: int) -> Tensor:
    """(W, width) orthonormal axes of the largest second moments of (M, W) vectors.

    Second moments, not variances: an inner product, which S is, has no centre.
    """
    _, axes = torch.linalg.eigh(vectors.T @ vectors / len(vectors))
    return axes.flip(1)[:, :width].contiguous()


def student_of(
    teacher: Any, ids: Sequence[int], axes: Tensor, layers: int
) -> transformers.BertModel:
    """A small BERT whose pieces start with the teacher's vectors, in the given axes."""
    width = axes.shape[1]
    config = transformers.BertConfig(
        vocab_size=len(ids),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=3 * width,
        max_position_embeddings=MAX_TOKENS + 8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        type_vocab_size=1,
        pad_token_id=0,
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        vectors = teacher.embeddings.word_embeddings.weight[torch.tensor(ids)] @ axes
        model.embeddings.word_embeddings.weight.copy_(vectors)
        for name, parameter in model.named_parameters():
            # Every block starts as the identity, see `fresh_text_model`.
            if name.endswith(("output.dense.weight", "position_embeddings.weight")):
                nn.init.zeros_(parameter)
    return model


def student_vectors(model: nn.Module, tokens: Sequence[Sequence[int]]) -> Tensor:
    """(M, width) means over the texts' own tokens, as ``TextTower`` pools."""
    ids, mask = padded(tokens)
    states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    ends = mask.sum(1) - 1
    own = mask.clone()
    own[:, 0] = 0
    own[torch.arange(len(own)), ends] = 0
    return (states * own[..., None]).sum(1) / own.sum(1, keepdim=True).clamp(min=1)


def distillation_loss(student: Tensor, target: Tensor) -> Tensor:
    """1 - cosine, plus the squared difference of similarities within the batch.

    Args:
        student: (M, D).
        target: (M, D) unit length, in the same axes.
    """
    unit = F.normalize(student, dim=1)
    relations = (unit @ unit.T - target @ target.T).square().mean()
    return (1 - (unit * target).sum(1)).mean() + 10 * relations


def distil(
    model: nn.Module,
    tokens: Sequence[list[int]],
    batches: list[list[int]],
    targets: Tensor,
    epochs: int,
    lr: float = 1e-3,
    seed: int = 0,
) -> float:
    """Train the student; returns the mean loss of the last epoch.

    Args:
        model: the student.
        tokens: of each of M texts.
        batches: indices of texts of similar length.
        targets: (M, D) unit length.
        epochs: passes over the texts.
        lr: largest learning rate; warm-up of a twentieth, then a cosine to 0.
        seed: of the order of batches.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    steps = epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.05)
    generator = torch.Generator().manual_seed(seed)
    mean, start = 0.0, time.perf_counter()
    for epoch in range(epochs):
        total = 0.0
        for b in torch.randperm(len(batches), generator=generator).tolist():
            batch = batches[b]
            with torch.autocast("cpu", dtype=torch.bfloat16):
                vectors = student_vectors(model, [tokens[i] for i in batch])
            loss = distillation_loss(vectors.float(), targets[torch.tensor(batch)])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean = total / len(batches)
        spent = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: loss {mean:.4f}, {spent:.0f} s", flush=True)
    return mean


def run(args: argparse.Namespace) -> None:
    """Read the texts, distil and write.

    Raises:
        UserError: a file is missing.
    """
    texts: list[str] = []
    for path in args.categories:
        texts += texts_of_categories(path)
    for path in args.lines:
        texts += path.read_text(encoding="utf-8").splitlines()
    wanted = len(texts)
    if args.wordnet:
        texts += texts_of_wordnet(args.wordnet)
    cleaned = [clean_phrase(text) for text in texts]
    important = set(cleaned[:wanted])
    distinct = list(dict.fromkeys(text for text in cleaned if text))
    teacher: Any = load_text_model(str(args.teacher)).eval()
    tokenizer = load_tokenizer(str(args.teacher))
    counts: Counter[str] = Counter()
    for text in distinct:
        # The pieces of category lists and captions come before those of WordNet alone.
        weight = 1000 if text in important else 1
        for piece in tokenizer.tokenize(text):
            counts[piece] += weight
    ids = write_tokenizer(args.teacher, counts, args.pieces, args.output)
    print(f"{len(distinct)} texts, {len(important)} of them not of WordNet; {len(ids)} pieces")
    targets = teacher_vectors(teacher, tokenizer, distinct)
    print("targets ready", flush=True)
    axes = principal_axes(targets, args.width)
    kept = (targets @ axes).square().sum(1).mean()
    print(f"{args.width} axes keep {kept:.3f} of the squared length", flush=True)
    targets = F.normalize(targets @ axes, dim=1)
    model = student_of(teacher, ids, axes, args.layers)
    tokens, batches = by_length(load_tokenizer(str(args.output)), distinct)
    distil(model, tokens, batches, targets, args.epochs, args.lr)
    model.half().save_pretrained(args.output)


def main(argv: list[str] | None = None) -> int:
    """Distil and write; returns 2 for a mistake that the user can fix."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path, required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--categories", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--lines", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--wordnet", type=Path, nargs="?", const=WORDNET_FOLDER, metavar="DIR")
    parser.add_argument("--pieces", type=int, default=10_000, help="default 10000")
    parser.add_argument("--width", type=int, default=256, help="D, a multiple of 32; default 256")
    parser.add_argument("--layers", type=int, default=2, help="default 2")
    parser.add_argument("--epochs", type=int, default=4, help="default 4")
    parser.add_argument("--lr", type=float, default=1e-3, help="default 1e-3")
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    try:
        run(args)
    except (UserError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
