"""Answers of visual question answering: their form, and their scores by ten people's answers."""

import functools
import re
from collections import Counter
from collections.abc import Sequence

AGREEING = 3
"""So many equal answers of other people make an answer right."""
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = dict(
    zip(
        "none zero one two three four five six seven eight nine ten".split(),  # noqa: SIM905
        map(str, (0, *range(11))),
        strict=True,
    )
)
# Not an apostrophe, which may be a possessive, nor a colon, which may be a time.
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# People forget apostrophes. Words that are others without one ("were", "ill") are not here.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll ma'am mightn't
mightn't've might've mustn't must've needn't not've o'clock oughtn't shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()  # noqa: SIM905
_CONTRACTION_OF = {word.replace("'", ""): word for word in _CONTRACTIONS}


@functools.lru_cache(maxsize=100_000)  # ten people for each question, who often agree
def normalized_answer(answer: str) -> str:
    """An answer as the official evaluation of VQA compares it.

    Small letters; no articles; numbers to ten as digits; no period but that of a fraction;
    apostrophes where contractions lack them; other punctuation becomes a space, or nothing beside a
    space or in a text with a comma between digits ("1,000").

    The official program does so to the answers of people only where these differ, and skips some of
    the steps; its documentation, which this follows, makes no such difference.
    """
    text = " ".join(answer.split())
    joins = _COMMA_IN_NUMBER.search(text) is not None
    found = text
    for mark in _PUNCTUATION:
        is_beside_space = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if joins or is_beside_space else " ")
    words = [_NUMBERS.get(word, word) for word in _PERIOD.sub("", found).lower().split()]
    return " ".join(_with_apostrophe(word) for word in words if word not in _ARTICLES)


def _with_apostrophe(word: str) -> str:
    return _CONTRACTION_OF.get(word.replace("'", ""), word)


def answer_scores(answers: Sequence[str]) -> dict[str, float]:
    """Each normalised answer of the people asked, and its accuracy by the official protocol.

    An answer's accuracy is min(n / 3, 1) for n other people who gave it, averaged over the choices
    of the others: all but one of the people asked. Of ten people, 1, 2 or 3 who give an answer make
    it 0.3, 0.6 or 0.9 right, and more of them 1. The answer of a single person is right.

    Args:
        answers: of all people, ten in VQA; empty ones count as answers that differ from all others.
    """
    counts = Counter(map(normalized_answer, answers))
    return {
        answer: _average_accuracy(number, len(answers))
        for answer, number in counts.items()
        if answer
    }


def answer_accuracy(answer: str, answers: Sequence[str]) -> float:
    """The accuracy, 0 to 1, of a given answer; see `answer_scores`."""
    return answer_scores(answers).get(normalized_answer(answer), 0.0)


def _average_accuracy(agreeing: int, total: int) -> float:
    """The mean over the choices of all but one of ``total`` people, ``agreeing`` of whom agree."""
    if total == 1:
        return 1.0
    without_one = agreeing * min((agreeing - 1) / AGREEING, 1.0)
    return (without_one + (total - agreeing) * min(agreeing / AGREEING, 1.0)) / total


def frequent_answers(answers: Sequence[str], at_least: int) -> list[str]:
    """The normalised answers that occur at least so often, most frequent first.

    Args:
        answers: one for each question: the one that most people gave.
        at_least: 9 for VQA v2, which gives 3,129 answers of train and val.
    """
    counts = Counter(map(normalized_answer, answers))
    counts.pop("", None)
    kept = [(answer, number) for answer, number in counts.items() if number >= at_least]
    return [answer for answer, _ in sorted(kept, key=lambda pair: (-pair[1], pair[0]))]
