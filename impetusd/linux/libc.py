"""Functions of the C library that Python has no call for, by `_ctypes`, the half of `ctypes` that is written in C.

The other half makes a class of each C type when it is imported, of which five are used here: 0.24 MB, in the shim and in the
supervisor, for as long as they live. `ctypes` imports its C half by these names.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from ctypes import Structure, byref, c_int, c_long, c_uint32, c_uint64, c_ulong, get_errno, sizeof

    class _OwnErrno:
        def __init__(self, where: tuple[str, object]) -> None: ...

        def __call__(self, *arguments: object) -> int: ...

    class _Locked(_OwnErrno): ...

    _LIBRARY = object()
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        CFuncPtr,
        Structure,
        _SimpleCData,
        byref,
        dlopen,
        get_errno,
        sizeof,
    )

    class c_int(_SimpleCData):  # noqa: N801 - as in `ctypes`
        _type_ = "i"

    class c_long(_SimpleCData):  # noqa: N801
        _type_ = "l"

    class c_ulong(_SimpleCData):  # noqa: N801
        _type_ = "L"

    class c_uint32(_SimpleCData):  # noqa: N801
        _type_ = "I"

    class c_uint64(_SimpleCData):  # noqa: N801
        _type_ = "Q"

    class _OwnErrno(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO
        _restype_ = c_int

    class _Locked(CFuncPtr):
        _flags_ = FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO | FUNCFLAG_PYTHONAPI
        _restype_ = c_long

    class _LIBRARY:
        _handle = dlopen(None, 0)


__all__ = ["Structure", "byref", "c_int", "c_long", "c_uint32", "c_uint64", "c_ulong", "error", "function", "sizeof"]


def function(name: str, *, locked: bool = False) -> Callable[..., int]:
    """The function of this name; what it returns is an int. It takes integers, bytes, None, and values of the classes above.

    `locked`: it keeps the interpreter's lock over the call, and returns a long. Raises AttributeError if there is none.
    """
    return (_Locked if locked else _OwnErrno)((name, _LIBRARY))


def error(*path: str) -> OSError:
    """Why the last call in this thread has failed."""
    number = get_errno()
    return OSError(number, os.strerror(number), *path)
