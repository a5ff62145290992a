"""Prints its whole environment to stderr, as a badly written program does in its last words, and fails."""

from __future__ import annotations

import os
import sys

for name, value in sorted(os.environ.items()):
    print(f"{name}={value}", file=sys.stderr)
print(dict(os.environ), file=sys.stderr)
print("cannot log in with", *(os.environ[name] for name in ("DB_PASSWORD", "API_TOKEN")), file=sys.stderr)
sys.exit(3)
