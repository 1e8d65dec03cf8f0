"""Tools of the project GLIPv2."""
