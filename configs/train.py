"""What the training loop reads beside model, data and optimiser.

Every key, with its meaning, is in detclip2/engine/train_keys.py.
"""

from copy import deepcopy

from detclip2.engine import train_keys

train = deepcopy(train_keys.TRAIN)
