"""Model folders for others: what a model needs and no more, with a card; and their upload."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf

from detclip2.config import OWN_FOLDER, load_model_config
from detclip2.data_config import read_data_config
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json, write_whole
from detclip2.utils.model_folder import (
    CONFIG_NAME,
    EXAMPLES_NAME,
    VOCABULARY_NAME,
    WEIGHTS_NAME,
    knowledge,
    read_model_folder,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from detclip2.inference.vocabulary import Vocabulary

CARD_NAME, RESULTS_NAME, AUTO_CONFIG_NAME = "README.md", "results.json", "config.json"
MODEL_TYPE = "detclip2"
"""What ``config.json`` says to the auto classes of transformers."""
_KEPT = ("knows", "model", "inference")  # of the config; the rest names the author's folders

_CARD = """
# {name}

A model of detclip2: it detects what you name.{knows}

```python
from detclip2 import OpenVocabularyPredictor

predictor = OpenVocabularyPredictor.from_pretrained("{repository}")
predictor.set_vocabulary(["red apple", "fire engine"])
found = predictor("kitchen.jpg")
```
"""


def copy_for_others(
    model: str | os.PathLike[str],
    target: Path,
    repository: str,
    vocabulary: "Vocabulary | None" = None,
    licence: str | None = None,
) -> None:
    """Copy what others need of a model folder: config, weights, vocabulary, results and card.

    The config keeps the nodes ``model`` and ``inference``, with all references followed. The card
    is the folder's README.md, or a short one, with a yaml head for the hub.

    Args:
        model: a model folder, or the name of a model that ships.
        target: a folder.
        repository: its name on the hub, for the card.
        vocabulary: encoded; replaces that of the folder.
        licence: an identifier of the hub, such as "apache-2.0"; None: that of the card, if any.

    Raises:
        UserError: the folder lacks a file, or others could not load the model without trusting it.
    """
    config, weights = read_model_folder(model)
    folder, content = config.parent, read_data_config(config)
    load_model_config(config)  # refuses what others could not load
    resolved: Any = OmegaConf.to_container(OmegaConf.create(content), resolve=True)
    kept = {key: resolved[key] for key in _KEPT if key in resolved}
    text = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True)
    write_whole(target / CONFIG_NAME, lambda file: file.write(text.encode()))
    shutil.copyfile(weights, target / WEIGHTS_NAME)
    for name in {VOCABULARY_NAME, EXAMPLES_NAME, RESULTS_NAME, *_own_files(kept)}:
        source = folder / name
        if source.is_dir():
            shutil.copytree(source, target / name, dirs_exist_ok=True)
        elif source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    if vocabulary is not None:
        vocabulary.save(target / VOCABULARY_NAME)
    write_json(target / AUTO_CONFIG_NAME, {"model_type": MODEL_TYPE})
    card = card_of(folder, repository, licence)
    write_whole(target / CARD_NAME, lambda file: file.write(str(card).encode()))


def _own_files(node: Any) -> set[str]:
    """The paths after `OWN_FOLDER` in a config."""
    if isinstance(node, str):
        return {node.removeprefix(OWN_FOLDER)} if node.startswith(OWN_FOLDER) else set()
    values = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return set().union(*map(_own_files, values))


def card_of(folder: Path, repository: str, licence: str | None = None) -> "ModelCard":
    """The card of a model: the folder's README.md or a short one, with the head that the hub reads.

    What the head of the README.md says stays.

    Args:
        folder: the model folder.
        repository: the name on the hub.
        licence: see `copy_for_others`.

    Raises:
        UserError: the head of the README.md is no yaml.
    """
    from huggingface_hub import ModelCard

    path = folder / CARD_NAME
    if path.is_file():
        text = path.read_text("utf-8")
    else:
        known = knowledge(folder / CONFIG_NAME)
        name = repository.rpartition("/")[2]
        text = _CARD.format(
            name=name, repository=repository, knows=f" It says: {known}." * bool(known)
        )
    try:
        card = ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: the head of this card cannot be read: {error}") from error
    data: Any = card.data
    data.license = licence or data.license
    data.library_name = data.library_name or "detclip2"
    data.pipeline_tag = data.pipeline_tag or "zero-shot-object-detection"
    data.tags = sorted({*(data.tags or ()), "detclip2", "open-vocabulary-detection"})
    return card


def push_to_hub(
    model: str | os.PathLike[str],
    repository: str,
    *,
    vocabulary: "Vocabulary | None" = None,
    licence: str | None = None,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload a model of detclip2",
) -> str:
    """Upload a model folder to the hub, as `copy_for_others` leaves it.

    Args:
        model: see there.
        repository: OWNER/NAME; it is made if it does not exist.
        vocabulary: see there.
        licence: see there.
        private: whether a new repository is private.
        revision: an existing branch; None: main.
        message: of the commit.

    Returns:
        The commit, a revision that never changes.

    Raises:
        UserError: as there; or the hub refuses the upload.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        copy_for_others(model, Path(folder), repository, vocabulary, licence)
        api = HfApi(library_name="detclip2")
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=folder, revision=revision, commit_message=message
            )
        except Exception as error:  # of networks and of the hub: many kinds
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{repository}: the hub does not take the model ({first})") from error
    return str(commit.oid)
