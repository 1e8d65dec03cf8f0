"""What callers give as a vocabulary."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import Any, TypeAlias

from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.names import BUILTIN_NAMES, Names, check_names
from detclip2.inference.prepared import PreparedVocabulary
from detclip2.inference.vocabulary import Vocabulary
from detclip2.utils.errors import UserError

VocabularySource: TypeAlias = (
    Vocabulary | PreparedVocabulary | CaptionPhrases | Names | str | os.PathLike[str]
)

_VOCABULARIES_KEPT = 64  # in a call with one for each image; LVIS's takes 1.2 MB
_FILES_OF_NAMES = (".txt", ".csv", ".json")


def to_vocabulary(source: VocabularySource) -> Vocabulary:
    """The vocabulary that is meant, as `OpenVocabularyPredictor.set_vocabulary` says.

    Raises:
        UserError: see there.
    """
    if isinstance(source, PreparedVocabulary):
        return source.vocabulary
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, str) and source.strip().casefold() in BUILTIN_NAMES:
        name = source.strip().casefold()
        raise UserError(
            f"{source!r} is the name of a built-in list: give Vocabulary.builtin({name!r}) for its "
            f"names, or [{source!r}] to look for a thing that is called so"
        )
    if isinstance(source, str) and Path(source).suffix not in (*_FILES_OF_NAMES, ".safetensors"):
        return Vocabulary.from_text(source)
    if isinstance(source, str | os.PathLike):
        is_saved = Path(source).suffix == ".safetensors"
        return Vocabulary.load(source) if is_saved else Vocabulary.from_file(source)
    return Vocabulary.from_names(source)


def with_vocabularies(
    images: Iterable[Any],
    sources: Iterable[VocabularySource],
    prepare: Callable[[VocabularySource], PreparedVocabulary],
) -> Iterable[tuple[Any, PreparedVocabulary]]:
    """Each image with its own vocabulary; equal ones are prepared once.

    Raises:
        UserError: there are not as many vocabularies as images; at once, if both have a length.
    """
    if isinstance(sources, str | os.PathLike | Vocabulary | PreparedVocabulary | CaptionPhrases):
        raise UserError("`vocabularies` is a list with one for each image")
    if isinstance(images, Sized) and isinstance(sources, Sized):
        _check_counts(len(images) == len(sources))
    return _zip_equal(images, _prepare_distinct(sources, prepare))


def _prepare_distinct(
    sources: Iterable[VocabularySource],
    prepare: Callable[[VocabularySource], PreparedVocabulary],
) -> Iterator[PreparedVocabulary]:
    # The source is kept beside the result, so that no other object can get its id.
    known: dict[Any, tuple[VocabularySource, PreparedVocabulary]] = {}
    for source in sources:
        if isinstance(source, PreparedVocabulary):
            yield source
            continue
        if not isinstance(source, Vocabulary | CaptionPhrases | str | os.PathLike):
            source = tuple(check_names(source))
        # Vocabularies with equal names may have different embeddings.
        key = id(source) if isinstance(source, Vocabulary) else source
        if key not in known:
            if len(known) == _VOCABULARIES_KEPT:
                del known[next(iter(known))]
            known[key] = source, prepare(source)
        yield known[key][1]


def _zip_equal(
    images: Iterable[Any], vocabularies: Iterable[PreparedVocabulary]
) -> Iterator[tuple[Any, PreparedVocabulary]]:
    nothing = object()
    for image, vocabulary in itertools.zip_longest(images, vocabularies, fillvalue=nothing):
        _check_counts(image is not nothing and vocabulary is not nothing)
        yield image, vocabulary  # type: ignore[misc]


def _check_counts(equal: bool) -> None:
    if not equal:
        raise UserError("there must be as many vocabularies as images")
