"""``detectron2`` of a new process that has not imported detclip2 yet; see the parent package."""

import sys
from importlib import import_module

del sys.modules[__name__]  # so that the second import is a new search ...
import_module("detclip2")  # ... which skips this folder from here on
import_module(__name__)
