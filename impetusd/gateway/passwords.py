"""Passwords as they are kept: scrypt with N = 2**15, r = 8, p = 1, which takes 76 ms and 32 MiB."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os

SHORTEST, LONGEST = 10, 1024  # characters of a new password
_N, _R, _P, _SALT, _KEY = 15, 8, 1, 16, 32  # N is 2 to the power of _N; sizes in bytes
_MEMORY = 64 << 20  # bytes that OpenSSL may take: it needs 128 * N * r and a little


def hashed(password: str) -> str:
    """`scrypt$15$8$1$SALT$KEY` of a new password, with a salt of its own."""
    salt = os.urandom(_SALT)
    return _text(salt, _derived(password, salt))


def is_right(password: str, kept: str) -> bool:
    """Whether `kept` is of this password. Takes as long as for any other if `kept` is none ("": an unknown user)."""
    try:
        name, n, r, p, salt, key = kept.split("$")
        known = (name, n, r, p) == ("scrypt", str(_N), str(_R), str(_P))
        salted, wanted = base64.b64decode(salt, validate=True), base64.b64decode(key, validate=True)
    except (ValueError, binascii.Error):
        known, salted, wanted = False, bytes(_SALT), bytes(_KEY)
    return hmac.compare_digest(_derived(password, salted), wanted) and known


def refusal(password: str) -> str:
    """Why this cannot be a new password; "" if it can."""
    if len(password) < SHORTEST:
        return f"a password needs at least {SHORTEST} characters"
    if len(password) > LONGEST:
        return f"a password must not exceed {LONGEST} characters"
    return ""


def _derived(password: str, salt: bytes) -> bytes:
    data = password.encode("utf-8", "surrogatepass")
    return hashlib.scrypt(data, salt=salt, n=1 << _N, r=_R, p=_P, maxmem=_MEMORY, dklen=_KEY)


def _text(salt: bytes, key: bytes) -> str:
    return "$".join(
        ["scrypt", str(_N), str(_R), str(_P), base64.b64encode(salt).decode(), base64.b64encode(key).decode()]
    )
