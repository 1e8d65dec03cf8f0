"""The text tower: any transformers text model, which encodes phrases (paper, sec. 3.1)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from detclip2.modeling.text.prompt_offsets import PhraseOffsets
from detclip2.modeling.text.shipped import (
    SHIPPED_TOWERS,
    ShippedTokenizer,
    shipped_text_model,
)
from detclip2.modeling.text.token_tower import TokenTower
from detclip2.resources import RESOURCES
from detclip2.utils.errors import UserError
from detclip2.utils.json_text import parse_json
from detclip2.utils.paths import is_outside, path_in

BATCH_SIZE = 256
"""Maximum phrases in one call of the text tower in inference."""
_UNREADABLE = (OSError, ValueError, ImportError, RecursionError, SafetensorError)
_NO_CODE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_TENSORS_ONLY = {**_NO_CODE, "use_safetensors": True}
_RESOURCE = "resource://"
# The last layer of each branch of a block, and the positions: of CLIP, then of BERT.
_ZERO_AT_FIRST = (
    *("out_proj.weight", "fc2.weight", "position_embedding.weight"),
    *("output.dense.weight", "position_embeddings.weight"),
)


class TextTowerMissing(UserError):
    """The files of a text tower are missing or cannot be read."""


class TextTower(TokenTower):
    """A text model of transformers with its tokenizer, and a projection to D.

    Each phrase is encoded on its own, so its embedding does not depend on the others and can be
    kept in a file.

    Args:
        model: a transformers text model whose output has ``last_hidden_state``.
        tokenizer: its tokenizer.
        embed_dim: D; None: there is no projection, D is the width of the text model (a model that
            was distilled into the space of S).
        max_length: maximum tokens a phrase, start and end included; 16 in the paper (Tab. 9).
        pooling: "end_of_text", the last token's state (CLIP, FILIP), or "mean" over the phrase's
            own tokens, without those that mark its start and end.
        identity: name of the encoder, stored with embeddings in files.
        prompt_names: phrases whose embeddings have a learned offset, see `PhraseOffsets`.

    Raises:
        UserError: ``pooling`` is neither of these.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        embed_dim: int | None = 256,
        max_length: int = 16,
        pooling: str = "end_of_text",
        identity: str = "",
        prompt_names: Sequence[str] = (),
    ) -> None:
        super().__init__(model, tokenizer, max_length, identity)
        if pooling not in ("end_of_text", "mean"):
            raise UserError(f"text_tower.pooling is {pooling!r}; expected 'end_of_text' or 'mean'")
        self.pooling = pooling
        self.embed_dim = self.width if embed_dim is None else embed_dim
        self.projection: nn.Module = nn.Identity()
        if embed_dim is not None:
            self.projection = nn.Linear(self.width, embed_dim, bias=False)
            nn.init.normal_(self.projection.get_parameter("weight"), std=self.width**-0.5)
        self.phrase_offsets: PhraseOffsets | None = None
        if prompt_names:
            self.add_prompt(prompt_names)

    def add_prompt(self, names: Sequence[str]) -> None:
        """Give phrases a learned offset of their embedding, 0 at first."""
        self.phrase_offsets = PhraseOffsets(names, self.embed_dim)

    def forward(self, phrases: Sequence[str], tokens: Sequence[np.ndarray] | None = None) -> Tensor:
        """M phrases -> (M, D) embeddings, not normalised; M may be 0.

        Args:
            phrases: M phrases.
            tokens: those of each phrase, (3, T), if a loader has made them (`PhraseTokens`).
        """
        return self.with_offsets(phrases, self.embed(phrases, tokens))

    def embed(self, phrases: Sequence[str], tokens: Sequence[np.ndarray] | None = None) -> Tensor:
        """The same without learned offsets."""
        if not phrases:  # of the type that phrases have, also in mixed precision
            return self.projection(next(self.parameters()).new_zeros(0, self.width))
        joined = self._tokenize(phrases) if tokens is None else self.joined(tokens)
        lengths = joined["attention_mask"].sum(dim=1).tolist()
        groups = groups_by_length(lengths)
        embeddings = []
        for group in groups:
            longest = max(lengths[m] for m in group)
            part = {name: x[group, :longest].to(self.device) for name, x in joined.items()}
            embeddings.append(self.pool(self.encode(part), part))
        order = torch.tensor([m for group in groups for m in group], device=self.device)
        return torch.cat(embeddings)[order.argsort()]

    def with_offsets(self, phrases: Sequence[str], embeddings: Tensor) -> Tensor:
        """The (M, D) embeddings of M phrases with their learned offsets, if there are any."""
        if self.phrase_offsets is None or not phrases:
            return embeddings
        return self.phrase_offsets(phrases, embeddings)

    @torch.no_grad()
    def encode_phrases(self, phrases: Sequence[str]) -> Tensor:
        """(M, D) embeddings in evaluation mode, without gradient, in batches of `BATCH_SIZE`."""
        was_training = self.training
        self.eval()
        try:
            return torch.cat([self(batch) for batch in batches_of(phrases)])
        finally:
            self.train(was_training)

    def pool(self, states: Tensor, tokens: Mapping[str, Tensor]) -> Tensor:
        """(M, T, width) states of tokens -> (M, D) embeddings of phrases, not normalised."""
        if self.pooling == "mean":
            own = 1 - tokens["special_tokens_mask"]
            pooled = (states * own[..., None]).sum(1) / own.sum(1, keepdim=True).clamp(min=1)
        else:
            last = tokens["attention_mask"].sum(1) - 1
            pooled = states[torch.arange(len(states), device=states.device), last]
        return self.projection(pooled)


def groups_by_length(lengths: Sequence[int]) -> list[list[int]]:
    """Split phrases so that padding is least: the short ones, and the rest.

    Few of a batch are whole captions or definitions, to whose length all others are padded.

    Args:
        lengths: tokens of each of M phrases, at least one.

    Returns:
        Indices of the phrases, in one group or two: where the second call of a text model would
        save less than a quarter of the tokens, there is one.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    longest = lengths[order[-1]]
    splits = range(1, len(order))
    tokens, split = min(
        ((n * lengths[order[n - 1]] + (len(order) - n) * longest, n) for n in splits),
        default=(math.inf, 0),
    )
    if tokens > 0.75 * len(order) * longest:
        return [list(range(len(lengths)))]
    return [order[:split], order[split:]]


def batches_of(phrases: Sequence[str]) -> list[list[str]]:
    """Split phrases into batches of at most `BATCH_SIZE`, to limit memory; [[]] for none."""
    return [list(phrases[part]) for part in parts_of(len(phrases))]


def parts_of(count: int) -> list[slice]:
    """The slices of the batches of `batches_of`."""
    return [slice(i, i + BATCH_SIZE) for i in range(0, max(count, 1), BATCH_SIZE)]


def load_text_model(
    path: str, pretrained: bool = True, add_pooling_layer: bool | None = None
) -> nn.Module:
    """A transformers text model from a folder, or from the local cache by its hub id.

    It never accesses the network, runs no code of the folder (``auto_map`` in config.json), and
    reads no weights that need pickle (.bin). A model with two towers (CLIP, SigLIP) gives its text
    tower, one with encoder and decoder (T5) its encoder.

    Args:
        path: a folder with config.json (and model.safetensors), or a hub id already in the cache.
        pretrained: False builds it with random weights from config.json alone.
        add_pooling_layer: False for a BERT without the pooler that states of tokens do not need;
            None for models that have no such choice.

    Raises:
        TextTowerMissing: a file is missing; the message names it and where to put it.
        UserError: a file would run code.
    """
    if _ships(path) and not pretrained and add_pooling_layer is None:
        return shipped_text_model(resolve_folder(path))
    import transformers

    pooler = {} if add_pooling_layer is None else {"add_pooling_layer": add_pooling_layer}
    path = resolve_folder(path)
    try:
        config = _read_config(path)
        if config.model_type in ("clip", "clip_text_model"):
            text_config = getattr(config, "text_config", config)
            if pretrained:
                return transformers.CLIPTextModel.from_pretrained(
                    path, config=text_config, **_TENSORS_ONLY
                )
            return transformers.CLIPTextModel(text_config)
        if pretrained:
            model = transformers.AutoModel.from_pretrained(path, **_TENSORS_ONLY, **pooler)
        else:
            model = transformers.AutoModel.from_config(config, trust_remote_code=False, **pooler)
    except UserError:
        raise
    except _UNREADABLE as error:
        raise TextTowerMissing(
            _missing_files(path, "config.json and model.safetensors", error)
        ) from error
    model = model.float()  # weights may be stored in half precision
    if hasattr(config, "text_config"):
        return model.text_model
    return model.get_encoder() if config.is_encoder_decoder else model


def _read_config(path: str) -> Any:
    """The config of a text model.

    Raises:
        UserError: it asks for a program, or names weights outside of its folder.
        OSError, ValueError: it is missing or not readable.
    """
    import transformers

    config = transformers.AutoConfig.from_pretrained(path, **_NO_CODE)
    for part in (config, getattr(config, "text_config", None)):
        # A kernel of the hub is a compiled program: "kernels-community/flash-attn".
        if "/" in str(kernel := getattr(part, "_attn_implementation", None)):
            raise UserError(
                f"the text tower {path}: its config.json asks for the attention {kernel!r}, a "
                "program from the hub, which is not run: remove attn_implementation"
            )
    index = Path(path) / "model.safetensors.index.json"
    if index.is_file():
        for name in parse_json(index.read_bytes()).get("weight_map", {}).values():
            if is_outside(str(name)):
                raise UserError(f"{index}: the weights {name!r} are outside of the folder")
    return config


def fresh_text_model(
    path: str, add_pooling_layer: bool | None = None, vocab_size: int | None = None
) -> nn.Module:
    """A CLIP text model or a BERT with random weights and the sizes of config.json.

    For training from scratch. With the usual random weights, the embeddings of any two phrases have
    a cosine of about 0.8, and a detector spends most of a short training on distinguishing them.
    Here every block starts as the identity and positions start at zero: a bag of words, in which
    phrases without a common word are nearly orthogonal.

    Args:
        path: a folder with config.json, see `load_text_model`.
        add_pooling_layer: see `load_text_model`.
        vocab_size: number of word embeddings; None: that of config.json.

    Raises:
        UserError: as `load_text_model`.
    """
    model: Any = load_text_model(path, pretrained=False, add_pooling_layer=add_pooling_layer)
    if vocab_size is not None:
        model.resize_token_embeddings(vocab_size, mean_resizing=False)
    for name, parameter in model.named_parameters():
        if name.endswith(_ZERO_AT_FIRST):
            nn.init.zeros_(parameter)
        elif name.endswith(("token_embedding.weight", "word_embeddings.weight")):
            nn.init.normal_(parameter)
    return model


def untrained_clip_text_model() -> nn.Module:
    """The text model of CLIP ViT-B/32 with random weights; no file is needed."""
    import transformers

    return transformers.CLIPTextModel(transformers.CLIPTextConfig())


def load_tokenizer(path: str, mask_token: str | None = None) -> Any:
    """A tokenizer from a folder, or from the local cache by its hub id; never from the network.

    Args:
        path: a folder or hub id.
        mask_token: is added, as the last token, if the tokenizer has none for masked words.

    Raises:
        TextTowerMissing: a file is missing; the message names it and where to put it.
    """
    if _ships(path) and mask_token is None:
        return ShippedTokenizer(resolve_folder(path))
    tokenizer = _read_tokenizer(resolve_folder(path))
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    if mask_token is not None and tokenizer.mask_token_id is None:
        tokenizer.add_special_tokens({"mask_token": mask_token})
    return tokenizer


def _read_tokenizer(path: str) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(path, **_NO_CODE)
    except _UNREADABLE as error:
        raise TextTowerMissing(_missing_files(path, "tokenizer.json", error)) from error


def save_without_weights(path: str, folder: str | Path) -> None:
    """Copy config.json and the tokenizer of a text model into a folder.

    `load_text_model` with ``pretrained=False`` and `load_tokenizer` read them there.

    Args:
        path: a folder, or a hub id in the local cache.
        folder: is made.

    Raises:
        UserError: as `load_text_model` and `load_tokenizer`.
    """
    path = resolve_folder(path)
    tokenizer = _read_tokenizer(path)
    try:
        config = _read_config(path)
    except _UNREADABLE as error:
        raise UserError(_missing_files(path, "config.json", error)) from error
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def resolve_folder(path: str) -> str:
    """Resolve ``resource://NAME`` to a folder inside this package; other paths stay unchanged.

    Raises:
        UserError: the name leads out of the package.
    """
    if path.startswith(_RESOURCE):
        return path_in(RESOURCES, path.removeprefix(_RESOURCE))
    return path


def _ships(path: str) -> bool:
    """Whether it is a text tower of this package, which needs no transformers."""
    return path.removeprefix(_RESOURCE) in SHIPPED_TOWERS and path.startswith(_RESOURCE)


def _missing_files(path: str, files: str, error: Exception) -> str:
    if Path(path).is_dir():
        reason = str(error).splitlines()[0]
        return f"the text tower in the folder {path} cannot be loaded; it needs {files}: {reason}"
    return (
        f"the text tower {path!r} is neither a folder nor in the local cache of the hub: put "
        f"{files} into a folder and give its path as text_tower.model.path, or fetch a hub id once "
        f"with `hf download {path}` where there is a network"
    )
