"""What the training loop reads beside model, data and optimiser.

Every key, with its meaning, is in detclip2/engine/defaults.py.
"""

from copy import deepcopy

from detclip2.engine import defaults

train = deepcopy(defaults.TRAIN)
