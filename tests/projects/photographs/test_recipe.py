"""The steps of the recipe: their order, their arguments, and which are skipped."""

from pathlib import Path

import pytest

from detclip2.config import apply_overrides, get_config
from projects.Photographs import recipe
from projects.Photographs.tools import prepare_data

COMMAND = ["--categories", "lvis.json", "v3det.txt"]


def all_steps(output):
    return list(recipe.steps(Path("photos"), [Path("lvis.json"), Path("v3det.txt")], output))


@pytest.fixture
def calls(monkeypatch):
    """Replaces every step by one that only writes its last file."""
    done = []
    steps = recipe.steps

    def run(step):
        def pretend(arguments):
            done.append(step)
            step.makes.parent.mkdir(parents=True, exist_ok=True)
            step.makes.touch()
            return 0

        return step._replace(run=pretend)

    monkeypatch.setattr(recipe, "steps", lambda *args: map(run, steps(*args)))
    return done


def test_steps_whose_files_are_there_are_skipped(calls, tmp_path, capsys):
    command = ["photos", *COMMAND, "--output", str(tmp_path)]
    assert recipe.main(command) == 0
    assert [step.makes for step in calls] == [step.makes for step in all_steps(tmp_path)]
    assert str(tmp_path / "photo_nano") in capsys.readouterr().out
    calls.clear()
    assert recipe.main(command) == 0
    assert not calls
    (tmp_path / "photo_nano_all/model.safetensors").unlink()
    assert recipe.main(command) == 0
    assert [step.makes.parent.name for step in calls] == ["photo_nano_all"]


def test_a_step_that_fails_ends_the_recipe(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe.fetch_starting_weights, "main", lambda arguments: 0)
    (photos / "pairs.jsonl").unlink()
    assert recipe.main([str(photos), *COMMAND, "--output", str(tmp_path / "out")]) == 2
    assert "pairs.jsonl" in capsys.readouterr().err


def test_arguments_are_those_of_the_commands(photos, tmp_path, capsys):
    """The data is prepared, and the overrides of both trainings exist in their configs."""
    steps = list(recipe.steps(photos, [Path("lvis.json")], tmp_path))
    assert prepare_data.main(steps[1].arguments) == 0
    assert steps[1].makes.is_file()
    for step in steps[-2:]:
        command, flag, config, resume, *overrides = step.arguments
        assert (command, flag, resume) == ("train", "--config", "--resume")
        cfg = apply_overrides(get_config(config), overrides)
        assert cfg.photos.data == str(tmp_path / "data")
        assert cfg.train.output_dir == str(step.makes.parent)
        assert cfg.model.text_tower.model.path == str(tmp_path / "text_tower")
    assert cfg.train.init_checkpoint == str(steps[-2].makes)
