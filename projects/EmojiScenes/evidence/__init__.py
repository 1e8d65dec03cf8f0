"""The benchmark's experiments: ``python -m projects.EmojiScenes.evidence`` (see ../README.md)."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
COMMAND = "python -m projects.EmojiScenes.evidence"
