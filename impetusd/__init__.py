"""impetusd keeps services up: the version, and nothing else, for every worker imports this module."""

__version__ = "1.0.0"
