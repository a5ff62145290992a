"""Random secrets: tokens for programs, codes of one-time links, sessions. Only their digests are kept."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "impd_"  # of tokens, so that whoever finds one knows what it is; `core.redact` hides it
LONGEST = 128  # characters that are looked at
_BYTES = 32


def new(prefix: str = "") -> str:
    """A new secret."""
    return prefix + secrets.token_urlsafe(_BYTES)


def digest(secret: str) -> str:
    """What is kept of it. A secret has 256 bits, so a fast digest without salt is enough."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
