"""Tools of the maintainers and of users who prepare data: each runs as `python scripts/NAME.py`."""
