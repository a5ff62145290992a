"""Entry point of the command `impetusd`: `status` and `monit` bypass click, the rest go through it.

All errors are reported here: one sentence on stderr and an exit code for an operator's mistake, a traceback only for a
bug.
"""

from __future__ import annotations

from impetusd import traces

traces.install()  # a Ctrl-C while the rest is imported is not a bug

# The functions behind those of `signal`, which make an enum of each signal: 0.4 ms of every command.
import _signal  # type: ignore[import-not-found]  # noqa: E402
import io  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402

from impetusd.cli.failure import Failure  # noqa: E402
from impetusd.client.control import NO_ROOM, ControlError  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


ENCODING = "impetusd_encoding"  # in `-X`: what the terminal takes


def command() -> NoReturn:
    """The console script: runs the command in sys.argv, and ends with its exit code.

    At once: the interpreter's own end frees what the kernel frees anyway, and was 10 of 60 ms of a `status`.
    """
    code = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what was printed until a Ctrl-C
        except (AttributeError, OSError, ValueError):
            pass  # it was closed, or nobody reads it
    os._exit(code)


def main() -> int:
    """Run the command in sys.argv; returns the exit code."""
    traces.install()
    # Some callers leave it ignored: then no child could be waited for.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    _open_streams()
    _speak_utf8()
    encoding = sys._xoptions.get(ENCODING)  # noqa: SLF001  # CPython has no other name for it
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is shown escaped, not raised.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding if isinstance(encoding, str) else None, errors="backslashreplace")
    try:
        code = _run(sys.argv[1:])
        if sys.stdout is not None:
            sys.stdout.flush()
    except (ControlError, Failure) as error:
        return complain(str(error), error.exit)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`impetusd status | head -1`). What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        return complain(f"cannot write {error.filename or 'the output'}: {error.strerror}", 1)
    return code


def _open_streams() -> None:
    """Open the three standard descriptors if closed, so that no file or socket of ours gets one of their numbers."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115  # for good


def _speak_utf8() -> None:
    """Begin again where paths would not be UTF-8, as the daemon's are in every locale; what is printed stays as it was."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(  # noqa: S606  # no shell is wanted
            sys.executable,
            [sys.executable, "-X", "utf8", "-X", f"{ENCODING}={sys.stdout.encoding}", *sys.orig_argv[1:]],
        )


def notify(message: str) -> None:
    """Print a notice to the operator."""
    complain(message, 0)


def complain(message: str, code: int) -> int:
    """Print a message to the operator, after all earlier output; returns `code`."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        pass  # its reader has left, or its disk is full
    try:
        prefix = "" if message.startswith("impetusd ") else "impetusd: "
        text = prefix + message
        if "JOURNAL_STREAM" in os.environ:
            text = _for_the_journal(text, code)
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # nobody reads it; the exit code still reports it
    return code


def _for_the_journal(text: str, code: int) -> str:
    from impetusd.linux.priority import ERROR, WARNING, is_journal

    if not is_journal(os.environ):
        return text
    return "\n".join((ERROR if code else WARNING) + line for line in text.split("\n"))


def _run(args: list[str]) -> int:
    if args and args[0].startswith(("-H", "--hosts", "-c", "--conf")) and (there := hosts_asked(args)) is not None:
        from impetusd.cli import elsewhere

        return elsewhere.run(*there)
    asked = status_asked(args)
    if asked is not None:
        from impetusd.cli import status

        return status.show(asked[0], asked[2], as_json=asked[1])
    if args[-1:] == ["monit"] and (len(args) == 1 or (len(args) == 3 and args[0] in {"-c", "--conf"})):
        from impetusd.cli import place
        from impetusd.cli.monit import loop

        return loop.show(place.find(args[1] if len(args) == 3 else None))
    from impetusd.cli import app

    return app.run(args)


def hosts_asked(args: Sequence[str]) -> tuple[str, list[str]] | None:
    """(-H HOST,..., the words without it) if -H precedes the command; None if it is not there."""
    i = 0
    while i < len(args) and args[i].startswith("-"):
        option, equals, value = args[i].partition("=")
        if option == "--hosts" and equals:
            return value, [*args[:i], *args[i + 1 :]]
        if args[i] in {"-H", "--hosts"} and i + 1 < len(args):
            return args[i + 1], [*args[:i], *args[i + 2 :]]
        if args[i].startswith("-H") and len(args[i]) > 2:
            return args[i][2:], [*args[:i], *args[i + 1 :]]
        i += 2 if args[i] in {"-c", "--conf"} else 1
    return None


def status_asked(args: Sequence[str]) -> tuple[str | None, bool, list[str]] | None:
    """(-c FILE, --json, names) if `args` is a plain `status`; None if click has to look at it, its mistakes included."""
    conf: str | None = None
    words: list[str] = []
    as_json = False
    rest = iter(args)
    for arg in rest:
        if arg in {"-c", "--conf"}:
            conf = next(rest, None)
            if conf is None:
                return None
        elif arg.startswith("--conf="):
            conf = arg[len("--conf=") :]
        elif arg == "--json" and words:
            as_json = True
        elif arg.startswith("-"):
            return None
        else:
            words.append(arg)
            if words[0] != "status":
                return None
    return (conf, as_json, words[1:]) if words else None
