"""The pieces of the training loop."""
