"""The benchmark EmojiScenes: configs, experiments, results and tools (README.md)."""
