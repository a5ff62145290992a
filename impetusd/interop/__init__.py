"""What other process managers speak and write, and what that is here."""
