"""GLIP and GLIPv2: configs, and the program that made `glipv2_nano`, which ships."""
