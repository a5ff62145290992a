"""The commands, each in its own module, which is imported when the command is used."""

from __future__ import annotations

import importlib
import os

import click

from impetusd.cli.main import complain
from impetusd.cli.options import conf_option

# As `--help` shows them: by what they are for, and in the order in which a newcomer meets them.
GROUPS = {
    "Begin": {
        "init": "impetusd.cli.install.init",
        "add": "impetusd.cli.add",
        "import": "impetusd.cli.import_command",
        "export": "impetusd.cli.export",
        "check": "impetusd.cli.check",
        "run": "impetusd.cli.run",
        "startup": "impetusd.cli.install.startup",
        "unstartup": "impetusd.cli.install.unstartup",
        "completion": "impetusd.cli.install.completion",
        "help": "impetusd.cli.help",
        "version": "impetusd.cli.version",
    },
    "Start and stop": {
        "start": "impetusd.cli.start",
        "stop": "impetusd.cli.stop",
        "restart": "impetusd.cli.restart",
        "reload": "impetusd.cli.reload",
        "rollout": "impetusd.cli.rollout",
        "scale": "impetusd.cli.scale",
        "signal": "impetusd.cli.signal_command",
    },
    "Change": {
        "plan": "impetusd.cli.plan",
        "apply": "impetusd.cli.apply",
        "enable": "impetusd.cli.enable",
        "disable": "impetusd.cli.disable",
        "remove": "impetusd.cli.remove",
        "exec": "impetusd.cli.exec",
        "upgrade": "impetusd.cli.upgrade",
        "reap-leftovers": "impetusd.cli.reap_leftovers",
    },
    "Look": {
        "status": "impetusd.cli.status_command",
        "monit": "impetusd.cli.monit.command",
        "why": "impetusd.cli.why",
        "events": "impetusd.cli.events",
        "describe": "impetusd.cli.describe",
        "doctor": "impetusd.cli.doctor",
        "env": "impetusd.cli.env",
        "health": "impetusd.cli.health",
    },
    "Web page": {
        "login-link": "impetusd.cli.login_link",
        "passwd": "impetusd.cli.passwd",
        "token": "impetusd.cli.token",
    },
    "Timers": {
        "timers": "impetusd.cli.timers",
        "trigger": "impetusd.cli.trigger",
    },
    "Alerts": {
        "alert": "impetusd.cli.alert",
        "silence": "impetusd.cli.silence",
    },
    "Logs": {
        "logs": "impetusd.cli.logs.show",
        "flush": "impetusd.cli.logs.flush",
        "reopen-logs": "impetusd.cli.logs.reopen_logs",
        "logrotate": "impetusd.cli.logs.logrotate",
    },
}
# Words of PM2 and supervisorctl, and what they are here. Those that show something are taken as that without a word.
WORDS = {
    **dict.fromkeys(("list", "ls", "l", "ps", "avail", "pid", "top"), "status"),
    **dict.fromkeys(("show", "info", "desc"), "describe"),
    **dict.fromkeys(("tail", "log"), "logs"),
    "maintail": "logs impetusd",
    "reread": "plan",
    "update": "apply",
    "gracefulReload": "reload",
    "reloadLogs": "reopen-logs",
    "sendSignal": "signal",
}
EXPLAINED = {
    **dict.fromkeys(("delete", "del"), "to stop a unit and remove its section from the INI file: impetusd remove NAME"),
    **dict.fromkeys(
        ("save", "dump", "resurrect"),
        "nothing to save: the INI file is the saved state; impetusd plan shows differences.",
    ),
    "reset": "restart counters cannot be reset; a manual start clears the history that max_restarts counts.",
    "clear": "to empty log files, see impetusd flush --help; to show them, impetusd logs.",
    **dict.fromkeys(("kill", "shutdown", "exit", "quit"), "to stop impetusd itself, see impetusd stop --help."),
    "fg": "to see a program's output: impetusd logs -f NAME",
    "serve": "to create an INI file: impetusd init",
    "ecosystem": "to create an INI file: impetusd init, or impetusd import from an ecosystem.config.js",
}
# Commands that are not suggested for a slip of the finger: they end, restart or remove something.
ENDING = frozenset({"stop", "restart", "signal", "scale", "disable", "remove", "flush", "reap-leftovers", "unstartup"})
CHANGING = frozenset({"apply", "reload", "reopen-logs", "signal"})
COMPLETING = "_IMPETUSD_COMPLETE"  # set by the scripts of `impetusd completion`: answer them, run nothing
COMMANDS = {name: module for group in GROUPS.values() for name, module in group.items()}


class LazyGroup(click.Group):
    """A group that imports a command's module (which calls it `command`) when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        module = COMMANDS.get(cmd_name)
        if module is None:
            return None
        command = importlib.import_module(module).command
        assert isinstance(command, click.Command)  # as the table guarantees
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, group by group."""
        width = max(map(len, COMMANDS))
        for title, names in GROUPS.items():
            rows = []
            for name in names:
                command = self.get_command(ctx, name)
                assert command is not None  # it is in the table
                rows.append((name.ljust(width), command.get_short_help_str(100)))
            with formatter.section(title):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the words of others; else with a guess at what was meant."""
        name = args[0]
        if name in WORDS:
            from impetusd.cli.main import notify

            args = [*WORDS[name].split(), *args[1:]]
            if args[0] in CHANGING:
                notify(f"{name} runs impetusd {WORDS[name]}")
        elif name not in COMMANDS and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}; {_hint(name)}")
        return super().resolve_command(ctx, args)


def _hint(name: str) -> str:
    """A hint for a word that is not a command. Never suggests a command that stops or removes anything."""
    if name in EXPLAINED:
        return EXPLAINED[name]
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    if near and near[0] not in ENDING:
        return f"did you mean {near[0]!r}?"
    return f"commands: {', '.join(COMMANDS)}."


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from impetusd.cli import version

        version.show()
        ctx.exit()


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@conf_option
@click.option(
    "-H",
    "--hosts",
    metavar="HOST,...",
    expose_value=False,
    help="Run the command on these hosts through ssh (see `impetusd help hosts`). Must come before the command.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Same as for the command.",
)
def cli() -> None:
    """Keep services running: start, watch, restart and stop the programs described in an INI file.

    NAME is a unit (web: all of it), a slot (web:0), a group or a pattern ('web*'). Without -c, the INI file is the
    first that exists of $IMPETUSD_CONF, ./impetusd.ini, ./conf/impetusd.ini, /etc/impetusd/impetusd.ini and, unless you
    are root, ~/.config/impetusd/impetusd.ini.

    Example: impetusd start && impetusd status
    """


def run(args: list[str]) -> int:
    """Run the command in `args`; returns the exit code. Errors of a command are raised; wrong usage is reported
    here."""
    if COMPLETING in os.environ:
        from impetusd.cli.install import completion

        return completion.answer(cli)
    try:
        code = cli.main(args or ["--help"], prog_name="impetusd", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return complain(error.format_message(), error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return 130  # click makes this of Ctrl-C, and has ended the line with the ^C
    except SystemExit as error:
        if error.code != 1:
            raise
        raise BrokenPipeError from None  # of which click makes an exit
    return code if isinstance(code, int) else 0
