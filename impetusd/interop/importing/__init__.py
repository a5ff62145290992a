"""From the files of other managers to an INI of ours: readers, one neutral model, one writer, a report of every key."""
