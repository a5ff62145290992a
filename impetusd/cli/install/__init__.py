"""Commands and files that put impetusd into its place on a host: units, manual, completion, a first INI file."""
