"""Roles: who has which, what each may ask for, and what the file system makes of it."""

from __future__ import annotations

import pytest

from impetusd.core import access, protocol
from impetusd.core.access import READ, SEARCH, WRITE, Inode, Person
from impetusd.core.config import parser
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError
from impetusd.core.rules.plan import Effect, plan

OWN, LOOKS, RUNS, RULES, ALL, MEMBER, STRANGER = 500, 1001, 1002, 1003, 1004, 1005, 1006
PEOPLE = [
    Person("viewer", "looks", LOOKS, frozenset({LOOKS})),
    Person("operator", "runs", RUNS, frozenset({RUNS})),
    Person("admin", "rules", RULES, frozenset({RULES})),
    *(Person(role, "all", ALL, frozenset()) for role in ("viewer", "admin", "operator")),
    Person("operator", "@ops", None, frozenset({27})),
]
# Peer -> uid, its groups, its role.
PEERS = {
    "root": (0, {0}, "admin"),
    "the daemon's own user": (OWN, {OWN}, "admin"),
    "a viewer": (LOOKS, {LOOKS}, "viewer"),
    "an operator": (RUNS, {RUNS}, "operator"),
    "an admin": (RULES, {RULES}, "admin"),
    "one with several roles has the highest": (ALL, {ALL}, "admin"),
    "one by its group": (MEMBER, {MEMBER, 27}, "operator"),
    "a viewer whose group may more": (LOOKS, {27}, "operator"),
    "a stranger": (STRANGER, {STRANGER, 4}, ""),
    "a stranger whose group has the number of a user": (STRANGER, {LOOKS, RULES}, ""),
}
LOOKING = {"ping", "status", "describe", "logs", "health", "timers", "plan", "events", "watch", "metrics", "places"}
RUNNING = {"start", "stop", "scale", "restart", "reload", "trigger", "reopen-logs", "flush", "signal", "tail"}
RUNNING |= {"silence", "unsilence", "search"}
OF_OUR_OWN = {"observer-report"}  # for a unit of impetusd's own, and for nobody else


@pytest.mark.parametrize("peer", PEERS)
def test_who_has_which_role(peer):
    uid, gids, role = PEERS[peer]
    assert access.role_of(uid, gids, OWN, PEOPLE) == role


def test_without_roles_there_are_root_and_the_own_user():
    assert [access.role_of(uid, {uid}, OWN, []) for uid in (0, OWN, LOOKS)] == ["admin", "admin", ""]


@pytest.mark.parametrize("role", protocol.ROLES)
def test_what_each_role_may_ask_for(role):
    """Every cell. A method that is new is the admins' until it stands in one of the two lists above."""
    may = {"viewer": LOOKING, "operator": LOOKING | RUNNING, "admin": set(protocol.METHODS) - OF_OUR_OWN}
    assert {method for method in protocol.METHODS if protocol.may(role, method)} == may[role]


def test_what_the_observer_may_besides_a_viewer():
    more = {name for name in protocol.METHODS if protocol.may("viewer", name, "observer")} - LOOKING
    assert more == {"tail", *OF_OUR_OWN}
    assert {name for name in protocol.METHODS if protocol.may("viewer", name, "gateway")} == LOOKING


class TestTheFileSystem:
    @pytest.mark.parametrize("peer", PEERS)
    def test_the_socket_lets_in_whoever_has_a_role_and_nobody_else(self, peer):
        uid, gids, role = PEERS[peer]
        socket = Inode("control.sock", OWN, OWN, 0o660, access.acl_of(PEOPLE, OWN))
        assert access.permits(socket, READ | WRITE, uid, gids) is bool(role)

    def test_nobody_is_let_in_by_the_group_of_the_socket(self):
        socket = Inode("control.sock", OWN, 4, 0o660, access.acl_of(PEOPLE, OWN))
        assert not access.permits(socket, WRITE, STRANGER, {4})

    @pytest.mark.parametrize(
        ("mode", "uid", "gids", "may"),
        [
            (0o755, STRANGER, {STRANGER}, True),
            (0o750, STRANGER, {STRANGER}, False),
            (0o750, STRANGER, {4}, True),
            (0o705, STRANGER, {4}, False),
            (0o700, None, {4}, False),
            (0o710, None, {4}, True),
            (0o055, OWN, {4}, False),
            (0o000, 0, set(), True),
        ],
    )
    def test_modes_mean_what_the_kernel_says(self, mode, uid, gids, may):
        assert access.permits(Inode("/run/x", OWN, 4, mode), SEARCH, uid, gids) is may

    def test_the_mask_of_an_access_list_bounds_what_it_gives(self):
        acl = access.acl_of(PEOPLE, OWN).replace(b"\x10\x00\x06\x00", b"\x10\x00\x04\x00")
        assert not access.permits(Inode("x", OWN, OWN, 0o640, acl), WRITE, LOOKS, set())

    def test_the_first_thing_in_the_way_is_told_for_each(self):
        way = [
            (Inode("/", 0, 0, 0o755), SEARCH),
            (Inode("/run/x", OWN, 27, 0o750), SEARCH),
            (Inode("/run/x/control.sock", OWN, OWN, 0o660, access.acl_of(PEOPLE, OWN)), WRITE),
        ]
        out = {person.said: inode.path for person, inode in access.kept_out(PEOPLE, way)}
        assert out == dict.fromkeys(("looks", "runs", "rules", "all"), "/run/x")


HOST = Host(euid=0, cpus=4, user_exists={"alice", "bob"}.__contains__, group_exists={"adm", "web-team"}.__contains__)


def parsed(own):
    return parser.parse(f"[impetusd]\n{own}\n", "/srv/impetusd.ini", {}, HOST)


def test_the_file_gives_roles():
    found = parsed("viewers = @adm, 1234\noperators = bob @27\n  @web-team\nadmins = alice").access
    assert (found.viewers, found.operators, found.admins) == (("@adm", "1234"), ("bob", "@27", "@web-team"), ("alice",))


def test_who_is_unknown_here_is_told_with_the_line():
    with pytest.raises(ConfigError) as caught:
        parsed("viewers = @amd\nadmins = alcie, alice")
    assert str(caught.value).splitlines() == [
        "/srv/impetusd.ini:2: viewers: no group 'amd' on this host; create it, or remove it here",
        "/srv/impetusd.ini:3: admins: no user 'alcie' on this host; create it, or remove it here",
    ]


def test_a_change_of_roles_touches_no_process():
    (change,) = plan(lambda _: parsed("viewers = @adm"), lambda _: parsed("viewers = @adm, bob"), lambda _: 1)
    assert (change.kind, change.name, change.effect) == ("impetusd", "", Effect.LIVE)
    assert [(key.name, key.old, key.new) for key in change.keys] == [("viewers", "@adm", "@adm, bob")]
