"""Text of samples: clean phrases, prompts, spans, noun phrases and concepts."""
