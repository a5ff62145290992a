"""From a pipe to lines in a file: threads, rotation, and what survives the supervisor."""
