"""Readers and registration of data sets: detection, grounding and captions."""
