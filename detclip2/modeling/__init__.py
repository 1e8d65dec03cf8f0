"""The model: backbone, dense head, text tower, alignment and its losses."""
