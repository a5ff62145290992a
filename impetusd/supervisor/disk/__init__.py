"""Data on disk: the state across reboots, and the ledger."""
