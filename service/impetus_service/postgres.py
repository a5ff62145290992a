"""The name that `impetusd-postgres` of an older installation imports; see impetusd.postgres.main."""

from impetusd.postgres.main import main

__all__ = ["main"]
