r"""Train the tokenizer of the nano text tower: byte-level BPE over lower-cased names and captions.

Byte-level, so that a name in any script has tokens. The shipped one was made from the names and
definitions of LVIS v1, the names of Objects365 and V3Det, the names of emoji, and the COCO captions
of a few dozen images:

    python projects/EmojiScenes/tools/train_tokenizer.py lvis_v1_categories.json \
        objects365_names.csv v3det_names.txt emoji_names.txt captions_train2017.json \
        --output text_tower_nano
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import CLIPTextConfig, PreTrainedTokenizerFast

START, END, PAD = "<start>", "<end>", "<pad>"


def strings(node: object) -> Iterator[str]:
    """Every string in a parsed json document that is a name, synonym, definition or caption."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("name", "synonyms", "def", "caption"):
                yield from [value] if isinstance(value, str) else value
            elif isinstance(value, (dict, list)):
                yield from strings(value)
    elif isinstance(node, list):
        for value in node:
            yield from strings(value)


def texts(paths: list[Path]) -> Iterator[str]:
    """The lines of text files and the strings of json files; underscores become spaces."""
    for path in paths:
        content = path.read_text(encoding="utf-8")
        found = strings(json.loads(content)) if path.suffix == ".json" else content.splitlines()
        yield from (text.replace("_", " ") for text in found)


def train(paths: list[Path], vocabulary_size: int) -> Tokenizer:
    """Learn the merges; every phrase is wrapped into a start and an end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(paths), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (START, END)],
    )
    return tokenizer


def main() -> None:
    """Write tokenizer.json, tokenizer_config.json and the config.json of the nano text model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="+", type=Path)
    parser.add_argument("--vocabulary-size", type=int, default=8000)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = train(args.texts, args.vocabulary_size)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        model_max_length=32,
    ).save_pretrained(args.output)
    CLIPTextConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=32,
        projection_dim=128,
        pad_token_id=tokenizer.token_to_id(PAD),
        bos_token_id=tokenizer.token_to_id(START),
        eos_token_id=tokenizer.token_to_id(END),
    ).save_pretrained(args.output)


if __name__ == "__main__":
    main()
