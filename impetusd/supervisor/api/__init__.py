"""Answers to commands: the control socket, each method, and the contents of rows."""
