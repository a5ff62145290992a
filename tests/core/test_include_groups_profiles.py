"""A configuration of several files, groups of units, and profiles."""

from __future__ import annotations

import pytest

from impetusd.core.config import include, parser
from impetusd.core.config.include import Source
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError, Problem
from impetusd.core.rules import plan

USERS = {"nobody"}
HOST = Host(euid=1000, cpus=4, user_exists=USERS.__contains__, group_exists=USERS.__contains__)
FILE, MORE = "/srv/shop/impetusd.ini", "/srv/shop/conf.d/web.ini"
DB = "[program:db]\ncommand = postgres\n"
API = "[program:api]\ncommand = api\n"
INCLUDE = "[include]\nfiles = conf.d/*.ini\n"


def parse(text, *included, profile="", problems=(), **environ):
    return parser.parse_all(Source(FILE, text, included, tuple(problems)), environ, HOST, profile=profile)


def problems(text, *included, **more):
    """Each as `file:line: text`, with the folder left out."""
    with pytest.raises(ConfigError) as caught:
        parse(text, *included, **more)
    return [str(problem).replace("/srv/shop/", "") for problem in caught.value.problems]


class TestInclude:
    def test_what_is_included_is_read_as_if_it_stood_there(self):
        found = parse(f"{INCLUDE}{DB}depends_on = api\n", (MORE, f"{API}[env:db]\nA = b\n"))
        assert list(found.units) == ["db", "api"]
        assert found.units["api"].where == f"{MORE}:1"
        assert found.units["db"].env == {"A": "b"}
        assert found.paths == parse(DB).paths

    @pytest.mark.parametrize(
        ("files", "globs"),
        [
            ("conf.d/*.ini", ["/srv/shop/conf.d/*.ini"]),
            ("/etc/a.ini, ../b.ini", ["/etc/a.ini", "/srv/b.ini"]),
            ("a.ini\n  ${BASE_DIR}/${SITE}/b.ini", ["/srv/shop/a.ini", "/srv/shop/north/b.ini"]),
            ("${NOT_SET}/a.ini", []),
            ("a/*.ini b/*.ini", ["/srv/shop/a/*.ini", "/srv/shop/b/*.ini"]),
            ("a.ini,b.ini\n  c.ini", ["/srv/shop/a.ini", "/srv/shop/b.ini", "/srv/shop/c.ini"]),
            ("\"my app/*.ini\" 'a, b.ini'", ["/srv/shop/my app/*.ini", "/srv/shop/a, b.ini"]),
            ("'it is", []),
        ],
    )
    def test_patterns_begin_at_the_files_folder(self, files, globs):
        found = include.patterns(f"{DB}[include]\nfiles = {files}\n", FILE, {"SITE": "north"})
        assert [pattern.glob for pattern in found] == globs
        assert all(pattern.line == 4 for pattern in found)

    def test_without_the_section_there_is_nothing_to_read(self):
        assert include.patterns(DB, FILE, {}) == []

    def test_a_problem_is_told_in_its_own_file(self):
        told = problems(f"{INCLUDE}{DB}nice = x\n", (MORE, f"; a comment\n{API}comand = y\n"))
        assert told[0].startswith("impetusd.ini:5: nice = x")
        assert told[1] == "conf.d/web.ini:4: unknown key 'comand' in [program:api]; did you mean command?"

    def test_what_is_there_twice_is_told_with_both_places(self):
        assert problems(INCLUDE + DB, (MORE, f"\n{DB}")) == [
            "conf.d/web.ini:2: [program:db] already exists at impetusd.ini:3; merge the two"
        ]
        assert problems(INCLUDE + DB, (MORE, "[timer:db]\ncommand = x\nevery = 1h\n")) == [
            "conf.d/web.ini:1: [timer:db]: [program:db] at impetusd.ini:3 already has that name; choose another"
        ]

    @pytest.mark.parametrize("section", ["[include]\nfiles = more.ini", "[impetusd]\nrun_dir = /run/x"])
    def test_what_is_for_the_whole_stands_in_the_main_file(self, section):
        told = problems(INCLUDE + DB, (MORE, section))
        assert any(each.startswith("conf.d/web.ini:1: [i") and "belongs in impetusd.ini" in each for each in told)
        assert parse(DB).paths.run_dir == "/srv/shop/var/run"

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[include]\n", "impetusd.ini:1: [include] has no files; write files = conf.d/*.ini, or remove it"),
            ("[include]\nfiles =\n", "impetusd.ini:2: [include] has no files"),
            ("[include]\nfile = a\n", "impetusd.ini:2: unknown key 'file' in [include]; did you mean files?"),
            ("[include:x]\nfiles = a\n", "impetusd.ini:1: [include:x]: this section takes no name; write [include]"),
            ("[include]\nfiles = ${X}\n", "impetusd.ini:2: files: ${X} is not set"),
            ("[include]\nfiles = 'a\n", "impetusd.ini:2: files: the ' is never closed"),
        ],
    )
    def test_its_own_mistakes(self, text, told):
        assert any(each.startswith(told) for each in problems(text))

    def test_what_could_not_be_read_is_told_with_the_rest(self):
        unread = Problem(FILE, 2, "files: cannot read /x: gone")
        assert (
            problems(f"{INCLUDE}{DB}nice = x\n", problems=[unread])[0] == "impetusd.ini:2: files: cannot read /x: gone"
        )


class TestGroups:
    def test_members_are_units_by_name_or_pattern_each_once(self):
        text = f"{DB}{API}[program:worker-a]\ncommand = a\n[program:worker-b]\ncommand = b\n"
        found = parse(f"[group:back]\nmembers = worker-*, db, worker-a\n{text}")
        assert found.groups["back"].members == ("worker-a", "worker-b", "db")
        assert found.groups["back"].where == f"{FILE}:1"

    @pytest.mark.parametrize(
        ("group", "told"),
        [
            ("[group:g]\nmembers = dbb", "members: no unit 'dbb'; did you mean db?"),
            ("[group:g]\nmembers = x-*", "members: x-* matches no unit; fix the pattern, or remove it"),
            (
                "[group:g]\nmembers = tidy",
                "members: tidy is a timer, but a group contains only pools and programs; remove it",
            ),
            ("[group:f]\nmembers = db\n[group:g]\nmembers = f", "members: f is a group; list its members instead"),
            ("[group:g]\n", "[group:g] has no members; add some, like members = web, db"),
            ("[group:g]\nmember = db", "unknown key 'member' in [group:g]; did you mean members?"),
            ("[group:db]\nmembers = api", "[group:db]: [program:db] on line 1 already has that name; choose another"),
            (
                "[group:tidy]\nmembers = api",
                "[group:tidy]: [timer:tidy] on line 5 already has that name; choose another",
            ),
            ("[group:]\nmembers = api", "[group:] has no name; write [group:NAME]"),
            (
                "[group:g]\nmembers = db\n[env:g]\nA = b",
                "[env:g]: g is a group; write one section for each of its members",
            ),
        ],
    )
    def test_mistakes(self, group, told):
        text = f"{DB}{API}[timer:tidy]\ncommand = tidy\nevery = 1h\n{group}\n"
        assert any(each.endswith(f": {told}") for each in problems(text))

    def test_a_unit_cannot_depend_on_one(self):
        assert "no unit 'g'" in problems(f"{DB}depends_on = g\n{API}[group:g]\nmembers = api\n")[0]


class TestProfiles:
    TEXT = (
        f"{DB}[env:db@production]\nSIZE = large\nEXTRA = 1\n[env:db]\nSIZE = small\nHOST = h\n[env:db@test]\nHOST = t\n"
    )

    @pytest.mark.parametrize(
        ("profile", "env"),
        [
            ("", {"SIZE": "small", "HOST": "h"}),
            ("production", {"SIZE": "large", "HOST": "h", "EXTRA": "1"}),
            ("test", {"SIZE": "small", "HOST": "t"}),
        ],
    )
    def test_one_is_laid_over_the_rest_wherever_it_stands(self, profile, env):
        found = parse(self.TEXT, profile=profile)
        assert (found.units["db"].env, found.profile) == (env, profile)

    def test_one_alone_is_enough(self):
        assert parse(f"{DB}[env:db@test]\nA = b\n", profile="test").units["db"].env == {"A": "b"}

    def test_references_of_another_profile_need_not_be_set_here(self):
        text = f"{DB}[env:db@production]\nA = ${{SECRET}}\n[env:db@test]\nA = b\n"
        assert parse(text).units["db"].env == {}
        assert problems(text, profile="production") == [
            "impetusd.ini:4: A: ${SECRET} is not set; set SECRET, or give a default: ${SECRET:-…}"
        ]

    def test_an_instance_has_its_own(self):
        text = f"{DB}instances = 2\n[env:db]\nA = x\n[env:db@test]\nA = ${{INSTANCE}}\n"
        second = parser.parse_all(Source(FILE, text), {}, HOST, profile="test", instance=1)
        assert second.units["db"].env == {"A": "1"}

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("[env:dbb@test]\n", "[env:dbb@test]: no unit 'dbb'; did you mean [env:db@test]?"),
            ("[env:db@]\n", "[env:db@]: nothing is not a profile; write [env:db@production]"),
            ("[env:@test]\n", "[env:@test] has no name; write [env:NAME] for the unit NAME, or [env] for all"),
            ("[env:db@a b]\n", "[env:db@a b]: a b is not a profile; write [env:db@production]"),
            (
                "[env:db@test]\n1A = x\n",
                "'1A' is not a valid variable name; use letters, digits, _, . and -, not starting with a digit",
            ),
        ],
    )
    def test_mistakes(self, text, told):
        assert any(each.endswith(f": {told}") for each in problems(DB + text))

    def test_one_that_nothing_is_for_is_a_slip(self):
        assert problems(self.TEXT, profile="prod") == [
            "impetusd.ini:1: no section uses the profile prod (--env); profiles: production, test, or use --env '' for no profile"
        ]


def changes(old, new):
    found = plan.plan(lambda _: old, lambda _: new, lambda _: 1)
    return [
        (change.kind, change.name, change.effect.value, [(k.name, k.old, k.new) for k in change.keys])
        for change in found
    ]


def test_a_group_is_planned_and_touches_nothing():
    old, new = parse(DB + API), parse(f"{DB}{API}[group:all]\nmembers = *\n")
    assert changes(old, new) == [("group", "all", "live", [("members", "", "db, api")])]
    assert changes(new, old) == [("group", "all", "live", [("members", "db, api", "")])]
    assert changes(new, new) == []


def test_a_profile_is_planned_with_what_it_changes():
    old, new = parse(TestProfiles.TEXT), parse(TestProfiles.TEXT, profile="test")
    assert changes(old, new) == [
        ("impetusd", "", "live", [("profile", "", "test")]),
        ("program", "db", "restart", [("env HOST", "(set)", "(set)")]),
    ]


def test_a_change_that_is_not_shown_is_a_change():
    """A password in a command is shown as ***, before and after."""
    old, new = (
        parse(f"{DB}[program:x]\ncommand = x http://u:one@h/\n"),
        parse(f"{DB}[program:x]\ncommand = x http://u:two@h/\n"),
    )
    (change,) = changes(old, new)
    assert change[:3] == ("program", "x", "restart")
    assert not any(secret in str(change) for secret in ("one", "two"))
