"""Encoded names that are kept."""

import asyncio

import pytest

from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.serving.vocabularies import VocabularyCache, key_of
from detclip2.utils.errors import UserError

RED, LIME = (("red",),), (("lime",), ("blue", "navy"))


def test_keys_are_of_the_content():
    caption, name = CaptionPhrases.find("a dog"), (("a dog",),)
    assert len({key_of(one) for one in (RED, LIME, caption, name, (("red", "lime"),))}) == 5
    assert key_of(LIME) == key_of((("lime",), ("blue", "navy")))
    assert len(key_of(RED)) == 64


def test_equal_names_are_encoded_once_also_at_the_same_time(colors):
    found = []

    async def main():
        cache = VocabularyCache(colors, 10, found.append)
        first, second = await asyncio.gather(cache.get(RED), cache.get(RED))
        assert first is second is await cache.get(RED)
        assert cache.find(key_of(RED)) is first
        assert cache.find(key_of(LIME)) is None

    asyncio.run(main())
    assert colors.model.prepared == [("red",)]
    assert found == [False, False, True]


def test_the_last_used_stay(colors):
    async def main():
        cache = VocabularyCache(colors, 4)
        for names in (RED, LIME, RED, (("white",),)):  # 1 + 3, and 1 more
            await cache.get(names)
        assert cache.names == 2
        assert cache.find(key_of(LIME)) is None
        assert cache.find(key_of(RED)) is not None
        await cache.get(tuple((str(n),) for n in range(9)))
        assert cache.names == 9, "the last one is kept whatever its size"

    asyncio.run(main())


def test_a_failure_is_not_kept_and_reaches_everybody(colors, monkeypatch):
    async def main():
        cache = VocabularyCache(colors, 4)
        results = await asyncio.gather(cache.get(RED), cache.get(RED), return_exceptions=True)
        assert [type(one) for one in results] == [UserError, UserError]
        monkeypatch.undo()
        assert (await cache.get(RED)).vocabulary.labels == ("red",)

    def fail(vocabulary):
        raise UserError("no")

    monkeypatch.setattr(colors, "prepare", fail)
    asyncio.run(main())


def test_the_work_goes_on_where_a_caller_gives_up(colors):
    async def main():
        cache = VocabularyCache(colors, 4)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(cache.get(RED), 0)
        await cache.get(RED)

    asyncio.run(main())
    assert colors.model.prepared.count(("red",)) <= 1
