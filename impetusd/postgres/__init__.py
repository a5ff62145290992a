"""An embedded PostgreSQL: `impetusd-postgres`."""
