"""No wall clock in a verdict: how long an example takes says what else the machine does."""

from hypothesis import settings

settings.register_profile("impetusd", deadline=None)
settings.load_profile("impetusd")
