"""Ends with the exit status that is its first argument, after it has printed the others to stderr, a line each."""

from __future__ import annotations

import sys

for line in sys.argv[2:]:
    print(line, file=sys.stderr)
sys.exit(int(sys.argv[1]))
