"""What is kept on the disk: the state across reboots, and the ledger."""
