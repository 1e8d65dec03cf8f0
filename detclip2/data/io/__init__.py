"""Input and output of files: images, videos, masks, json, lines and tar shards."""
