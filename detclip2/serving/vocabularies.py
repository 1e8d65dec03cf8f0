"""Vocabularies that are encoded once, and found by the hash of their names."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.prepared import PreparedVocabulary

Entries = tuple[tuple[str, ...], ...]
"""Checked names: for each label the names that stand for it, the label first."""


def key_of(asked: Entries | CaptionPhrases) -> str:
    """The hash of names or of a caption, 64 characters."""
    content = asked.caption if isinstance(asked, CaptionPhrases) else asked
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


class VocabularyCache:
    """Prepared vocabularies, the last used ones.

    Names are encoded in one thread, beside the detection. Callers who ask for the same names at the
    same time share the work, which goes on where a caller gives up.

    Args:
        predictor: it encodes.
        max_names: most names of all vocabularies together.
        observe: gets whether the vocabulary of a request was there, for each.
    """

    def __init__(
        self,
        predictor: OpenVocabularyPredictor,
        max_names: int,
        observe: Callable[[bool], None] = lambda found: None,
    ) -> None:
        self._predictor = predictor
        self._max_names = max_names
        self._observe = observe
        self._known: OrderedDict[str, tuple[PreparedVocabulary, int]] = OrderedDict()
        self._begun: dict[str, asyncio.Task[PreparedVocabulary]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="names")

    @property
    def names(self) -> int:
        """How many names are kept."""
        return sum(size for _, size in self._known.values())

    def find(self, key: str) -> PreparedVocabulary | None:
        """The vocabulary of a key, if it is kept."""
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        return self._known[key][0]

    async def get(self, asked: Entries | CaptionPhrases) -> PreparedVocabulary:
        """The vocabulary of some names or a caption.

        Raises:
            UserError: the model cannot read them.
        """
        key = key_of(asked)
        found = self.find(key)
        self._observe(found is not None)
        if found is not None:
            return found
        if key not in self._begun:
            task = asyncio.create_task(self._encode(key, asked))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._begun[key] = task
        return await asyncio.shield(self._begun[key])

    async def _encode(self, key: str, asked: Entries | CaptionPhrases) -> PreparedVocabulary:
        loop = asyncio.get_running_loop()
        try:
            prepared = await loop.run_in_executor(self._thread, self._predictor.prepare, asked)
        finally:
            del self._begun[key]
        size = sum(len(row) for rows in prepared.vocabulary.prompts for row in rows)
        self._known[key] = prepared, size
        while self.names > self._max_names and len(self._known) > 1:
            self._known.popitem(last=False)
        return prepared
