"""From the text of an INI file to a checked configuration, or to every problem in it."""
