"""A folder of images -> annotation files of other tools, and back to training."""
