"""Files on the disk as impetusd reads them: which are trusted, how a configuration and the ledger are read."""
