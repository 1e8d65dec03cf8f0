"""Files, errors, imports and the environment."""
