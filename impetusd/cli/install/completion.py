"""`impetusd completion`: the shell completion scripts, and the answers that they request.

A script calls the command itself with `_IMPETUSD_COMPLETE` set and the line up to the cursor in COMP_WORDS; click finds
out which parameter the cursor is at, and `WANTED` lists what is valid there. Each answer is a line: its type (plain,
file, dir), its value and a description, separated by tabs. An obstacle (no INI file, a broken one, a daemon that does
not answer) means fewer answers, never a message: that would appear in the middle of the operator's line.

`python -m impetusd.cli.install.completion conf/completion` writes the scripts.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import typing

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from impetusd.cli import place
from impetusd.cli.failure import Failure
from impetusd.cli.install import generated
from impetusd.cli.options import given
from impetusd.client import control
from impetusd.client.control import ControlError
from impetusd.core.config import ini, schema
from impetusd.files import source

if typing.TYPE_CHECKING:
    from collections.abc import Collection

    from impetusd.core.config.location import Paths

    _Text = click.ParamType[str]
else:
    _Text = click.ParamType  # older ones take no arguments

PATIENCE = 0.25  # seconds for the daemon; after that the INI file is asked

FILE, FOLDER = "file", "dir"
UNITS, SLOTS, TIMERS, OWN_LOG, CONFIGURED, SIGNALS = "units", "slots", "timers", "own log", "configured", "signals"
PROFILES, ALERTS = "profiles", "alerts"
# The values of each parameter, by its own name, or as COMMAND.NAME if they depend on the command.
WANTED: dict[str, tuple[str, ...]] = {
    "conf": (FILE,),
    "check.file": (FILE,),
    "env": (PROFILES,),
    "init.directory": (FOLDER,),
    "add.words": (FILE,),
    "env_files": (FILE,),
    "export.output": (FILE,),
    "import.files": (FILE,),
    "import.output": (FILE,),
    "import.cwd": (FOLDER,),
    "import.root": (FOLDER,),
    "remove.name": (CONFIGURED,),
    "names": (SLOTS, TIMERS),
    "logs.names": (SLOTS, TIMERS, OWN_LOG),
    "start.names": (SLOTS,),
    "restart.names": (SLOTS,),
    "reload.names": (UNITS,),
    "disable.names": (UNITS, TIMERS),
    "enable.names": (CONFIGURED,),  # disabled units are not in the daemon's answers
    "describe.name": (SLOTS, TIMERS),
    "env.name": (SLOTS, TIMERS),
    "exec.unit": (CONFIGURED,),  # also of what is stopped or switched off
    "exec.words": (FILE,),
    "scale.name": (UNITS,),
    "trigger.name": (TIMERS,),
    "signal.sig": (SIGNALS,),
    "alert.name": (ALERTS,),
    "silence.words": (UNITS, TIMERS),
}

BASH = """\
# bash completion for impetusd
_impetusd() {
    local line=${COMP_LINE:0:COMP_POINT} type value _
    local word=${line##*[[:space:]]} cut=
    # Where : separates words, readline replaces only what is behind the last one.
    [[ $word == *:* && $COMP_WORDBREAKS == *:* ]] && cut=${word%"${word##*:}"}
    COMPREPLY=()
    while IFS=$'\\t' read -r type value _; do
        case $type in
            plain) COMPREPLY+=("${value#"$cut"}") ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(_IMPETUSD_COMPLETE=bash_complete COMP_WORDS=$line "${1/#\\~/$HOME}" 2>/dev/null)
}
complete -o nosort -F _impetusd impetusd
"""

ZSH = """\
#compdef impetusd
# zsh completion for impetusd
_impetusd() {
    local answer type value about
    local -a described
    [[ $PREFIX == -*=* ]] && compset -P '*='
    answer=$(_IMPETUSD_COMPLETE=zsh_complete COMP_WORDS="${words[1,CURRENT-1]} $IPREFIX$PREFIX" ${~words[1]} 2>/dev/null)
    while IFS=$'\\t' read -r type value about; do
        case $type in
            plain) described+=("${value//:/\\\\:}${about:+:$about}") ;;
            file) _files ;;
            dir) _files -/ ;;
        esac
    done <<< $answer
    (( $#described )) && _describe -V impetusd described
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _impetusd "$@"
else
    compdef _impetusd impetusd
fi
"""

FISH = """\
# fish completion for impetusd
function __impetusd_complete
    set -l words (commandline -opc)
    set -l option (string match --regex -- '^-[^=]*=' (commandline -ct))
    for answer in (_IMPETUSD_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) $words[1] 2>/dev/null)
        set -l parts (string split \\t -- $answer)
        switch $parts[1]
            case file
                printf '%s\\n' "$option"(__fish_complete_path $parts[2])
            case dir
                printf '%s\\n' "$option"(__fish_complete_directories $parts[2])
            case plain
                printf '%s\\t%s\\n' "$option$parts[2]" $parts[3]
        end
    end
end
complete --no-files --command impetusd --arguments '(__impetusd_complete)'
"""

SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
FILES = {"bash": "impetusd", "zsh": "_impetusd", "fish": "impetusd.fish"}  # the name each shell looks for


@click.command(short_help="Print the shell completion script.")
@click.argument("shell", type=click.Choice(list(SCRIPTS)))
def command(shell: str) -> int:
    """Print the completion script of SHELL, for commands, options and names.

    For all users, as root, unless the package has installed it already:

    \b
      bash: /usr/share/bash-completion/completions/impetusd
      zsh:  /usr/share/zsh/vendor-completions/_impetusd
      fish: /usr/share/fish/vendor_completions.d/impetusd.fish

    For yourself, in ~/.bashrc, or in ~/.zshrc after compinit:

    \b
      eval "$(impetusd completion bash)"

    For fish, write its output to ~/.config/fish/completions/impetusd.fish.

    Example: impetusd completion bash > /usr/share/bash-completion/completions/impetusd
    """
    print(SCRIPTS[shell], end="")
    return 0


def answer(cli: click.Command) -> int:
    """Print what may stand at the cursor. Never fails."""
    try:
        lines = Answers(cli, {}, "impetusd", "_IMPETUSD_COMPLETE").complete()
        sys.stdout.write(lines + "\n" if lines else "")
    except Exception:
        return 1
    return 0


class Answers(ShellComplete):
    """Click's part: from the words in front of the cursor to the parameter that it is at."""

    name = "impetusd"
    source_template = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words after the command's name, and the one that the cursor is in."""
        line = os.environ.get("COMP_WORDS", "")
        words = split_arg_string(line)
        while words and re.match(r"\w+=", words[0]):  # fish counts NAME=value in front of a command in
            words.pop(0)
        incomplete = words.pop() if words and not line[-1:].isspace() else ""
        return words[1:], incomplete

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """The valid values there."""
        assert isinstance(self.cli, click.Group)
        context = click.Context(self.cli)
        commands = {name: self.cli.get_command(context, name) for name in args}
        for name, found in {"": self.cli, **commands}.items():
            for parameter in found.params if found else ():
                kinds = wanted(name, parameter)
                if kinds:
                    parameter.type = Kinds(kinds)
        return super().get_completions(args, incomplete)

    def format_completion(self, item: CompletionItem) -> str:
        """A line without its end."""
        return "\t".join(" ".join(str(part or "").split()) for part in (item.type, item.value, item.help))


def wanted(name: str, parameter: click.Parameter) -> tuple[str, ...]:
    """The kinds that `parameter` of the command `name` takes; none where its type knows, or where nobody can."""
    own = parameter.name or ""
    return WANTED.get(f"{name}.{own}") or WANTED.get(own, ())


class Kinds(_Text):
    """A parameter that takes what `kinds` says."""

    name = "name"

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Those that begin with `incomplete`, without those that are there already."""
        if self.kinds[0] in {FILE, FOLDER}:
            return [CompletionItem(incomplete, type=self.kinds[0])]
        used = ctx.params.get(param.name or "") or ()
        with ctx.scope(cleanup=False):
            offered = names(self.kinds, given())
        return [
            CompletionItem(name, help=about)
            for name, about in offered.items()
            if name.startswith(incomplete) and name not in used
        ]


def names(kinds: Collection[str], conf: str | None) -> dict[str, str]:
    """Each name with a description. `conf` is what -c says."""
    if SIGNALS in kinds:
        return {each.name.removeprefix("SIG"): (signal.strsignal(each) or "") for each in signal.Signals}
    own = {"impetusd": "its own log"} if OWN_LOG in kinds else {}
    path = place.find_conf(conf and os.path.expanduser(conf), os.environ)
    if not os.path.isfile(path):  # a pipe would be waited for
        return own
    if {CONFIGURED, PROFILES, ALERTS}.isdisjoint(kinds):
        try:
            return _running(place.find(path).paths, kinds) | own
        except (ControlError, Failure, _Late):
            pass
    return _configured(path, kinds) | own


class _Late(Exception):
    """The daemon did not answer in time."""


def _running(paths: Paths, kinds: Collection[str]) -> dict[str, str]:
    """The daemon's units, with their states. Raises ControlError, _Late."""
    deadline = time.monotonic() + PATIENCE

    def tick() -> None:
        if time.monotonic() > deadline:
            raise _Late

    found: dict[str, str] = {}
    if UNITS in kinds or SLOTS in kinds:
        answer = control.call(paths, "status", {}, control.Hooks(tick=tick))
        rows = answer["units"]
        for row in rows:
            states = [each["state"] for each in rows if each["unit"] == row["unit"]]
            found.setdefault(row["unit"], states[0] if len(states) == 1 else f"{len(states)} processes")
            if SLOTS in kinds:
                found.setdefault(row["name"], row["state"])
        found.update({name: f"group of {', '.join(members)}" for name, members in answer.get("groups", {}).items()})
    if TIMERS in kinds:
        timers = control.call(paths, "timers", {}, control.Hooks(tick=tick))["timers"]
        found.update({row["name"]: f"timer, {row['words']}" for row in timers})
    return found


def _configured(path: str, kinds: Collection[str]) -> dict[str, str]:
    """The INI file's units, as far as it can be read: from its section headers."""
    units = {UNITS, SLOTS, CONFIGURED}.isdisjoint
    shown = {
        schema.POOL: units,
        schema.PROGRAM: units,
        schema.GROUP: units,
        schema.TIMER: {TIMERS, CONFIGURED}.isdisjoint,
        schema.ALERT: {ALERTS}.isdisjoint,
    }
    texts = source.read(path, os.environ).texts
    headers = [section.name.partition(":") for file, text in texts for section in ini.parse(text, file)[0]]
    if PROFILES in kinds:
        of = (name.rpartition("@") for kind, _, name in headers if kind == schema.ENV and "@" in name)
        return {profile: f"profile of {name}" for name, _, profile in of}
    return {name: kind for kind, _, name in headers if name and kind in shown and not shown[kind](kinds)}


if __name__ == "__main__":
    generated.write({FILES[shell]: text for shell, text in SCRIPTS.items()})
