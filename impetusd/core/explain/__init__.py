"""What happened, and why: the ledger's records, explanations, findings."""
