"""Noun phrases of captions, the phrases of image-text pairs (paper, sec. 3.1)."""

from detclip2.data.text.noun_phrases.extract import (
    MAX_PHRASES,
    extract_noun_phrases,
    spacy_is_available,
)

__all__ = ["MAX_PHRASES", "extract_noun_phrases", "spacy_is_available"]
