"""The look of the output: tables, colours, progress."""
