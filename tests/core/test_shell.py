"""What only a shell could run is refused with what to write; what any program may be given is not."""

from __future__ import annotations

import pytest

from impetusd.core.config import ini, parser
from impetusd.core.config.include import Source
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError

HOST = Host(euid=0, cpus=4, user_exists=lambda _: True, group_exists=lambda _: True)
FILE = "/srv/my app/x.ini"


def parse(command, rules=ini.RULES, **environ):
    text = f"[program:p]\ncommand = {command}\n"
    return parser.parse_all(Source(FILE, text), environ, HOST, rules=rules)


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("source venv/bin/activate && x", "no shell runs this, and source is shell syntax; write sh -c '…'"),
        (". venv/bin/activate", "no shell runs this, and . is shell syntax; write sh -c '…'"),
        ("cd /srv", "no shell runs this, and cd is shell syntax; write sh -c '…'"),
        ("ulimit -n 1024", "no shell runs this, and ulimit is shell syntax"),
        ("exec x", "no shell runs this, and exec is shell syntax; remove the word"),
        ("A=1 x", "so A= would be taken as the program's name; set A in the unit's [env:…]"),
        ('PATH="/a b:$$PATH" x', "so PATH= would be taken as the program's name"),
        ("x && y", "no shell runs this, and && is shell syntax"),
        ("x || y", "no shell runs this, and || is shell syntax"),
        ("yes | head", "no shell runs this, and | is shell syntax"),
        ("yes|head", "no shell runs this; write sh -c '…'"),
        ("x > f 2>&1", "so nothing is redirected; set out_file and error_file, or write sh -c '…'"),
        ("x 2>&1", "so nothing is redirected"),
        ("x >>f", "so nothing is redirected"),
        ("x < /dev/null", "so nothing is redirected"),
        ("x &>f", "so nothing is redirected"),
        ("x>f", "no shell runs this; write sh -c '…'"),
        ("x &", "& is shell syntax; remove it: the program must stay in the foreground"),
        ("sleep 100&", "& is shell syntax; remove it"),
        ("x; y", "no shell runs this, and ; is shell syntax"),
        ("cat a; y", "no shell runs this, and ; is shell syntax"),
        ("(cd /srv && x)", "no shell runs this; write sh -c '…'"),
        ("x $(date)", "so $(…) and `…` are not expanded"),
        ("x `date`", "are not expanded"),
        ("~/bin/x", "so ~ is not expanded; write ${HOME}, or the path"),
        ('"sleep 100"', "the quotes turn the whole command into the program's name"),
        ("'python app.py --port 80'", "the quotes turn the whole command into the program's name"),
        (
            "sleep 1 # note",
            "# does not start a comment here; it would be passed as an argument; a comment after a value starts with ;",
        ),
        ("${CMD}", "no shell runs this, and && is shell syntax"),
        ("env x \\\\\n  && y", "no shell runs this, and && is shell syntax"),
    ],
)
def test_what_only_a_shell_could_run_is_refused(command, hint):
    with pytest.raises(ConfigError) as caught:
        parse(command, CMD="x && y")
    (problem,) = caught.value.problems
    assert problem.line == 2
    assert hint in problem.text


@pytest.mark.parametrize(
    "command",
    [
        "sh -c 'cd /srv && exec x > f 2>&1'",
        'bash -c "yes | head; x & y" -- "$$(date)"',
        "grep -E a|b f",
        "x 'a && b' \\> \\| '#' #channel \"|\"",
        "find . -name *.py -exec rm {} \\;",
        "x http://h/?a=1&b=2 --url=http://h/?a& a&b",
        "x --if>5 a>b --filter <none> <host>",
        "x A=1 ~/dir -o{a,b} !x [ a = b ]",
        "'/srv/my app/run'",
        "${BASE_DIR}/run",
        '"${CMD}" x',
        "'./my app/run'",
        "/bin/test 1",
        "echo a;b ;c",
        "x -e 's/a/b/;'",
        "python -c 'import x; x.y()'",
    ],
)
def test_what_a_program_may_be_given_is_not(command):
    assert parse(command, CMD="my run").units["p"].command


def test_what_runs_already_goes_on():
    assert parse("yes | head", rules=1).units["p"].command == ("yes", "|", "head")
