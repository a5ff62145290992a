"""`impetusd import` of services of systemd: words, variables, specifiers, templates, folders, what runs before."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_world import lost, read_back

from impetusd.interop.importing import systemd_words
from impetusd.interop.importing.model import ImportFault

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def service(tmp_path):
    """Writes a service, imports it; gives (Config, Imported)."""

    def make(text, name="web.service", of=""):
        (tmp_path / (of or name)).write_text(text)
        return read_back(tmp_path / name)[:2]

    return make


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r"""a "b c" 'd e' f"g h"i""", ["a", "b c", "d e", "fg hi"]),
        (r"""a\sb '\x41\t' "\"" \\ \101 \u00e9""", ["a b", "A\t", '"', "\\", "A", "é"]),
        (r"""[\.] 'it\'s'""", [r"[\.]", "it's"]),  # an unknown escape stays
        ("''  \t", [""]),
    ],
)
def test_words_are_those_of_systemd(text, words):
    assert systemd_words.split(text) == words


@pytest.mark.parametrize("text", ["'a", 'a "b', r"\x00", r"\ud800"])
def test_what_cannot_be_split(text):
    with pytest.raises(ValueError, match=r"a quote is never closed|invalid escape"):
        systemd_words.split(text)


def test_variables_are_those_of_systemd(service):
    """Without braces only as a word of its own, which is split, or left out; $$ is a dollar."""
    config, imported = service(
        "[Service]\nEnvironment=A='b c'\nExecStart=/bin/x $A ${A} a${A}$A $NONE ${NONE} $$1 '{ print $2 }' $(x) $1\n"
    )
    assert config.units["web"].command == ("/bin/x", "b", "c", "b c", "ab c$A", "", "$1", "{ print $2 }")
    assert any("NONE is not set" in each for each in imported.todo)


def test_a_file_of_variables_leaves_them_to_a_shell_word_for_word(service, tmp_path):
    (tmp_path / "web.env").write_text("WORDS=a  'b'\nB=x y\n")
    config, _ = service(
        f"[Service]\nEnvironment=B=old C=c\nEnvironmentFile={tmp_path}/web.env\nEnvironmentFile=-/nowhere/x\n"
        "ExecStart=/bin/x $WORDS -b${B} '$$5 $C' ;x\n"
    )
    unit = config.units["web"]
    assert unit.command == ("/bin/sh", "-c", "set -f; exec /bin/x $WORDS -b\"${B}\" '$5 $C' ';x'")
    assert unit.env == {
        "C": "c"
    }  # the file's B counts more, as there; of PATH the one that is not there may have another
    assert unit.env_file == (f"{tmp_path}/web.env", "-/nowhere/x")


def test_a_template_is_imported_by_its_instance(service):
    text = "[Service]\nExecStart=/bin/x %i %I %p %n %f %%\nUser=%i\n"
    config, _ = service(text, "job@a-b.service", "job@.service")
    assert config.units["job-a-b"].command == ("/bin/x", "a-b", "a/b", "job", "job@a-b.service", "/a/b", "%")
    config, imported = service(text, "job@.service")
    assert lost(imported) == {"ExecStart", "User"}


def test_an_unknown_specifier_is_said(service):
    with pytest.raises(ImportFault, match="%z"):
        service("[Service]\nExecStart=/bin/x %z\n")


def test_what_runs_before_runs_in_order_and_as_the_user_that_it_says(service):
    config, imported = service(
        "[Service]\nUser=app\nPermissionsStartOnly=no\nRuntimeDirectory=web web/x\nRuntimeDirectoryMode=0750\nStateDirectory=%p\n"
        "ExecStartPre=/bin/a\nExecStartPre=-+/bin/b\nExecStart=/bin/x\nStandardInput=null\nExecStop=/bin/kill -s QUIT $MAINPID\n"
    )
    units = config.units
    assert units["web"].depends_on == ("web-folders", "web-pre", "web-pre-2")
    assert units["web-pre"].depends_on == ("web-folders",)
    assert units["web-pre-2"].depends_on == ("web-pre",)
    assert [units[each].user for each in ("web-folders", "web-pre", "web-pre-2")] == ["", "app", ""]
    assert units["web-folders"].command[2] == (
        "install -d -m 0750 -o app /run/web /run/web/x && install -d -m 0755 -o app /var/lib/web"
    )
    assert units["web"].env == {
        "PATH": PATH,
        "RUNTIME_DIRECTORY": "/run/web:/run/web/x",
        "STATE_DIRECTORY": "/var/lib/web",
    }
    assert units["web"].kill_signal == 3
    assert lost(imported) == set()


def test_the_commands_of_a_oneshot_run_one_after_the_other(service):
    config, imported = service(
        "[Service]\nType=oneshot\nEnvironment=A=x\nExecStart=/bin/a 'b c'\nExecStart=-/bin/b $A\nExecStart=/bin/c\n"
    )
    assert config.units["web"].command == ("/bin/sh", "-c", "/bin/a 'b c' && { /bin/b x || true; } && /bin/c")
    assert lost(imported) == set()
    assert lost(service("[Service]\nExecStart=/bin/a\nExecStart=/bin/b\n")[1]) == {"ExecStart"}
    config, imported = service("[Service]\nType=oneshot\nExecStart=touch a-b $NONE\nExecStart=-touch c\n")
    assert config.units["web"].command[2] == "touch a-b && { touch c || true; }", "a - within it says nothing"
    assert len([each for each in imported.todo if "NONE is not set" in each]) == 1


def test_permissions_of_the_start_alone(service):
    config, _ = service("[Service]\nUser=app\nPermissionsStartOnly=true\nExecStartPre=/bin/a\nExecStart=/bin/x\n")
    assert (config.units["web-pre"].user, config.units["web"].user) == ("", "app")


def test_a_shell_makes_the_same_words_of_it():
    words = ["$WORDS", "a${B}$B", "$$x", "it's ${NONE}*", "$NONE", "", "\\ \"'`", "${B}${B}", "$not-a-name", "~", "#"]
    env = {"WORDS": "x  * y", "B": " b  c "}
    line, needed = systemd_words.script(words)
    done = subprocess.run(
        ["/bin/sh", "-c", f"set -f; printf '%s\\0' {line}"], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    assert needed
    assert done.stdout.split("\0")[:-1] == systemd_words.expanded(words, env)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab $\\{}'\"x0149uU;%_=\t"))
def test_nothing_else_is_raised(text):
    try:
        words = systemd_words.split(text)
    except ValueError:
        return
    systemd_words.script(words)
    systemd_words.expanded(words, dict.fromkeys(systemd_words.variables(words), "a b"))
