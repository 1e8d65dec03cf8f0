"""The text models and tokenizers of this package's resources, without transformers.

They are CLIP's text model and a BERT, with the names, shapes, initial weights and numbers of
transformers' classes, which any other folder is read with. Importing those takes as much processor
time as the rest of a prediction.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TextOutput(NamedTuple):
    """The output of a text model."""

    last_hidden_state: Tensor
    """(M, T, width) states of tokens."""


class ClipTextModel(nn.Module):
    """CLIP's text model: blocks whose norms come first, and tokens that see those before them.

    Args:
        config: the keys of its config.json.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "token_embedding": nn.Embedding(config.vocab_size, width),
                "position_embedding": nn.Embedding(config.max_position_embeddings, width),
            }
        )
        blocks = [_clip_block(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(blocks)})
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self._init_weights()

    def _init_weights(self) -> None:
        """Standard deviations of CLIP, drawn in the order of transformers."""
        config, factor = self.config, self.config.initializer_factor
        residual = config.hidden_size**-0.5 * (2 * config.num_hidden_layers) ** -0.5 * factor
        inner, last = (2 * config.hidden_size) ** -0.5 * factor, config.hidden_size**-0.5 * factor
        embeddings = dict.fromkeys(("token_embedding", "position_embedding"), 0.02 * factor)
        own = {**dict.fromkeys(("q_proj", "k_proj", "v_proj"), residual), "out_proj": last}
        parts: list[tuple[Any, dict[str, float]]] = [(self.embeddings, embeddings)]
        layers: Any = self.encoder["layers"]
        for block in layers:
            parts += [(block["self_attn"], own), (block["mlp"], {"fc1": inner, "fc2": residual})]
        for part, deviations in parts:
            _normal(part, config.initializer_range)  # which transformers draws first, and replaces
            for name, deviation in deviations.items():
                nn.init.normal_(part[name].weight, std=deviation)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TextOutput:
        """(M, T) ids and (M, T) int64, 1 for tokens and 0 for padding, if any -> states."""
        length = input_ids.shape[1]
        embeddings: Any = self.embeddings
        x = embeddings["token_embedding"](input_ids)
        x = x + embeddings["position_embedding"].weight[:length]
        before = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        visible = before if attention_mask is None else before & _keys(attention_mask)
        dropout = self.config.attention_dropout if self.training else 0.0
        layers: Any = self.encoder["layers"]
        for block in layers:
            own, mlp = block["self_attn"], block["mlp"]
            y = block["layer_norm1"](x)
            projected = [own[name](y) for name in ("q_proj", "k_proj", "v_proj")]
            x = x + own["out_proj"](_attention(projected, visible, self.config, dropout))
            y = mlp["fc1"](block["layer_norm2"](x))
            x = x + mlp["fc2"](y * torch.sigmoid(1.702 * y))
        return TextOutput(self.final_layer_norm(x))


def _clip_block(config: SimpleNamespace) -> nn.ModuleDict:
    width, inner = config.hidden_size, config.intermediate_size
    names = ("k_proj", "v_proj", "q_proj", "out_proj")
    return nn.ModuleDict(
        {
            "self_attn": nn.ModuleDict({name: nn.Linear(width, width) for name in names}),
            "layer_norm1": nn.LayerNorm(width, eps=config.layer_norm_eps),
            "mlp": nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)}),
            "layer_norm2": nn.LayerNorm(width, eps=config.layer_norm_eps),
        }
    )


class BertTextModel(nn.Module):
    """BERT without a pooler: blocks whose norms come last, and tokens that see each other.

    Args:
        config: the keys of its config.json.
    """

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(config.vocab_size, width, config.pad_token_id),
                "position_embeddings": nn.Embedding(config.max_position_embeddings, width),
                "token_type_embeddings": nn.Embedding(config.type_vocab_size, width),
                "LayerNorm": nn.LayerNorm(width, eps=config.layer_norm_eps),
            }
        )
        blocks = [_bert_block(config) for _ in range(config.num_hidden_layers)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(blocks)})
        _normal(self, config.initializer_range)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> TextOutput:
        """(M, T) ids and (M, T) int64, 1 for tokens and 0 for padding, if any -> states."""
        embeddings: Any = self.embeddings
        x = embeddings["word_embeddings"](input_ids)
        x = x + embeddings["token_type_embeddings"].weight[0]
        x = x + embeddings["position_embeddings"].weight[: input_ids.shape[1]]
        x = self._dropout(embeddings["LayerNorm"](x))
        visible = None if attention_mask is None else _keys(attention_mask)
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        layers: Any = self.encoder["layer"]
        for block in layers:
            own, mixed = block["attention"]["self"], block["attention"]["output"]
            projected = [own[name](x) for name in ("query", "key", "value")]
            y = mixed["dense"](_attention(projected, visible, self.config, dropout))
            x = mixed["LayerNorm"](self._dropout(y) + x)
            y = block["output"]["dense"](F.gelu(block["intermediate"]["dense"](x)))
            x = block["output"]["LayerNorm"](self._dropout(y) + x)
        return TextOutput(x)

    def _dropout(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.config.hidden_dropout_prob, self.training)


def _bert_block(config: SimpleNamespace) -> nn.ModuleDict:
    width, inner = config.hidden_size, config.intermediate_size

    def output(channels: int) -> nn.ModuleDict:
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        return nn.ModuleDict({"dense": nn.Linear(channels, width), "LayerNorm": norm})

    own = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
    return nn.ModuleDict(
        {
            "attention": nn.ModuleDict({"self": own, "output": output(width)}),
            "intermediate": nn.ModuleDict({"dense": nn.Linear(width, inner)}),
            "output": output(inner),
        }
    )


def _normal(model: nn.Module, deviation: float) -> None:
    """Draw weights of linear layers and embeddings; biases, and embeddings of padding, are 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            nn.init.zeros_(module.weight[module.padding_idx].detach())


def _keys(attention_mask: Tensor) -> Tensor:
    """(M, T) -> (M, 1, 1, T) bool: which tokens the others see."""
    return attention_mask.bool()[:, None, None]


def _attention(
    projected: Sequence[Tensor], visible: Tensor | None, config: SimpleNamespace, dropout: float
) -> Tensor:
    """Attention of several heads -> (M, T, width).

    Args:
        projected: queries, keys and values, (M, T, width) each.
        visible: bool, (T, T) or (M, 1, T or 1, T): which tokens each one sees; None: all.
        config: has the number of heads.
        dropout: of the weights.
    """
    heads = (config.num_attention_heads, -1)
    query, key, value = (x.unflatten(2, heads).transpose(1, 2) for x in projected)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class Tokens(dict[str, Any]):
    """Tokens of texts by key: lists, or tensors."""

    def to(self, device: torch.device) -> "Tokens":
        """The tensors on a device."""
        return Tokens({name: tensor.to(device) for name, tensor in self.items()})


class ShippedTokenizer:
    """A tokenizer.json, called as a fast tokenizer of transformers.

    Args:
        folder: has tokenizer.json and tokenizer_config.json.
    """

    is_fast = True
    mask_token_id = None

    def __init__(self, folder: str) -> None:
        from tokenizers import Tokenizer  # a model without a text tower does not need it

        self._tokenizer = Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
        config = json.loads(Path(folder, "tokenizer_config.json").read_text("utf-8"))
        self._padding = config["pad_token"]
        self.pad_token_id = self._tokenizer.token_to_id(self._padding)
        unknown = config.get("unk_token")
        self.unk_token_id = None if unknown is None else self._tokenizer.token_to_id(unknown)

    def num_special_tokens_to_add(self) -> int:
        """How many tokens mark the start and the end of a text."""
        return self._tokenizer.num_special_tokens_to_add(False)

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        add_special_tokens: bool = True,
        padding: bool = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
    ) -> Tokens:
        """Tokens of a text, or of M texts; the arguments are those of transformers."""
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if truncation and max_length is not None:
            self._tokenizer.enable_truncation(max_length)
        if padding:
            self._tokenizer.enable_padding(pad_id=self.pad_token_id, pad_token=self._padding)
        listed = [texts] if isinstance(texts, str) else list(texts)
        found = self._tokenizer.encode_batch(listed, add_special_tokens=add_special_tokens)
        tokens: dict[str, Any] = {
            "input_ids": [one.ids for one in found],
            "attention_mask": [one.attention_mask for one in found],
        }
        if return_special_tokens_mask:
            tokens["special_tokens_mask"] = [one.special_tokens_mask for one in found]
        if return_offsets_mapping:
            tokens["offset_mapping"] = [one.offsets for one in found]
        if return_tensors:
            return Tokens({name: torch.tensor(values) for name, values in tokens.items()})
        if isinstance(texts, str):
            return Tokens({name: values[0] for name, values in tokens.items()})
        return Tokens(tokens)


SHIPPED_TOWERS = ("text_tower_nano", "text_tower_photo")
"""Folders of the resources."""
_KINDS = {"bert": BertTextModel, "clip_text_model": ClipTextModel}


def shipped_text_model(folder: str) -> nn.Module:
    """The text model of a folder of the resources, with random weights."""
    config = SimpleNamespace(**json.loads(Path(folder, "config.json").read_text("utf-8")))
    return _KINDS[config.model_type](config)
