"""From files and generators to the one sample format (see :mod:`detclip2.data.sample`)."""
