"""GLIP and GLIPv2: configs, numbers, and the model that ships."""
