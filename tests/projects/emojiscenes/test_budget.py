"""Budgets: every source has its exact number of iterations, after the same start."""

from collections import Counter

import pytest

from detclip2.engine.hooks.source_schedule import SourceSchedule
from detclip2.utils.errors import UserError
from projects.EmojiScenes.evidence.budget import schedule_of_budget


@pytest.mark.parametrize("others", [{}, {"pairs": 700}, {"grounding": 300, "pairs": 800}])
def test_every_source_has_its_iterations_and_the_start_is_the_same(others):
    keys = schedule_of_budget({"detection": 900, "unused": 0, **others}, 400)
    schedule = SourceSchedule(keys["source_ratios"], 3, starts=keys["source_starts"])
    order = [schedule.source_of(i) for i in range(keys["max_iter"])]
    assert Counter(order) == {"detection": 900, **others}
    assert order[:400] == ["detection"] * 400
    assert set(order[400:500]) == {"detection", *others}


@pytest.mark.parametrize(
    "iterations", [{"detection": 400}, {"pairs": 100}, {"detection": 500, "pairs": -1}]
)
def test_a_budget_that_cannot_be_kept_is_refused(iterations):
    with pytest.raises(UserError, match="budget"):
        schedule_of_budget(iterations, 400)
