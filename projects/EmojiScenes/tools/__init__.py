"""Programs that make files of EmojiScenes and of the shipped model."""
