"""What the output looks like: tables, colours, progress."""
