"""Shell syntax in a command: no shell runs it, so it is refused with what to write instead.

Only unquoted text counts, and words that can only be meant for a shell: an argument like
'a && b', a|b or --if>5 is fine.
"""

from __future__ import annotations

from impetusd.core.config.ini import QUOTED, is_name, split

TYPE_CHECKING = False  # typing takes 2 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterable

    from impetusd.core.config.ini import Piece

OPERATORS = frozenset({"&&", "||", "|", "|&", ";", ";;"})
# The shell's built-in commands that are not programs, or have no effect as one.
BUILT_IN = frozenset({
    ".", "!", "alias", "builtin", "case", "cd", "command", "declare", "eval", "export", "for", "function", "if", "let", "local",
    "popd", "pushd", "set", "shopt", "source", "trap", "typeset", "ulimit", "umask", "unalias", "unset", "until", "while", "{",
})  # fmt: skip
NO_SHELL = "no shell runs this"
SHELL = "write sh -c '…'"


def needed(pieces: Iterable[Piece]) -> str:
    """The reason why only a shell could run this command, and what to write instead, as a clause; "" if none.

    Raises ValueError, as `ini.words` does.
    """
    words = split(pieces)
    if not words:
        return ""
    (program, first), *others = words
    return (
        _of_program(program, first, alone=not others)
        or next((fault for _, bare in others if (fault := _of_word(bare))), "")
        or _of_end([bare for _, bare in words])
    )


def _of_program(program: str, bare: str, *, alone: bool) -> str:
    name, equals, _ = bare.partition("=")
    if equals and is_name(name):
        return f"{NO_SHELL}, so {name}= would be taken as the program's name; set {name} in the unit's [env:…]"
    if bare.startswith("~"):
        return f"{NO_SHELL}, so ~ is not expanded; write ${{HOME}}, or the path"
    if bare == "exec":
        return f"{NO_SHELL}, and exec is shell syntax; remove the word"
    if bare in BUILT_IN:
        return f"{NO_SHELL}, and {bare} is shell syntax; {SHELL}"
    if bare.startswith("(") or any(sign in bare for sign in ("|", "&&", "$(", "`", ">", "<")):
        return f"{NO_SHELL}; {SHELL}"
    if alone and QUOTED in bare and " " in program and "/" not in program.partition(" ")[0]:
        return "the quotes turn the whole command into the program's name; remove them"
    return ""


def _of_word(bare: str) -> str:
    if bare in OPERATORS:
        return f"{NO_SHELL}, and {bare} is shell syntax; {SHELL}"
    operator = bare.lstrip("0123456789")
    placeholder = bare.startswith("<") and bare.endswith(">")
    if (operator.startswith((">", "<")) and len(bare) - len(operator) < 3 and not placeholder) or bare[:2] == "&>":
        return f"{NO_SHELL}, so nothing is redirected; set out_file and error_file, or {SHELL}"
    if bare == "#":
        return "# does not start a comment here; it would be passed as an argument"
    if "$(" in bare or "`" in bare:
        return f"{NO_SHELL}, so $(…) and `…` are not expanded; {SHELL}"
    return ""


def _of_end(words: list[str]) -> str:
    """The operator at the end of a word, or of the command."""
    if any(len(word) > 1 and word.endswith(";") for word in words[:-1]):
        return f"{NO_SHELL}, and ; is shell syntax; {SHELL}"
    last = words[-1]
    if last == "&" or (last.endswith("&") and "?" not in last and "=" not in last):
        return f"{NO_SHELL}, and & is shell syntax; remove it: the program must stay in the foreground"
    return ""
