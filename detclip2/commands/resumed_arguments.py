"""Arguments of a run that is resumed: those of its beginning count."""

import argparse
from pathlib import Path
from typing import Any

from detclip2.utils.errors import UserError


def given(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments that the user gave, by name, except those of the command itself."""
    own = ("command", "run", "resume", "output", "trust_config")
    # A flag that is not given is False.
    set_by_user = {k: v for k, v in vars(args).items() if v is not None and v is not False}
    return {key: value for key, value in set_by_user.items() if key not in own}


def noted(args: argparse.Namespace) -> dict[str, Any]:
    """The given arguments for json; paths are absolute: a resume may run in another folder."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return [*map(plain, value)]
        return str(value.resolve()) if isinstance(value, Path) else value

    return {key: plain(value) for key, value in given(args).items()}


def check_resumed(args: argparse.Namespace, before: dict[str, Any]) -> None:
    """Check that a resumed run has no other arguments; those that are not given stay as they were.

    Raises:
        UserError: some differ; the message has each of them, then and now.
    """
    differ = []
    for key, now in noted(args).items():
        if now != before.get(key):
            name = f"--{key.replace('_', '-')}"
            then = f"{name} {before[key]}" if key in before else f"no {name}"
            differ.append(f"with {then}, not {name} {now}")
    if differ:
        raise UserError(
            f"--resume: the run in {args.output} was begun {'; '.join(differ)}: continue it "
            "without what differs, or begin another run in a new folder"
        )
