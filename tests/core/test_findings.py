"""What doctor makes of what it found: each judgement, from the fact that makes it to what is told."""

from __future__ import annotations

import dataclasses
import json

import pytest

from impetusd.core.access import Inode, Person
from impetusd.core.explain import doctor
from impetusd.core.explain.doctor import FAIL, FEATURES, JUDGES, OK, WARN, Disk, Facts, Listener
from impetusd.core.trust import Fault

GB = 1 << 30
DIR = 0o40755
FOREIGN = Fault("it belongs to user 7", "chown root /x.ini")
ALICE = Person("viewer", "alice", 1001, frozenset({1001}))


def way(mode, end=0o666):
    return (Inode("/", 0, 0, DIR), Inode("/run/x", 0, 0, mode), Inode("/run/x/control.sock", 0, 0, end))


# A host with nothing to complain of; each case below changes one thing.
GOOD = Facts(
    conf="/etc/x.ini",
    processes=10,
    nofile=1 << 20,
    pids=(20, 10_000),
    inotify=(128, 65536),
    cgroup="/sys/fs/cgroup/x",
    cgroup_writable=True,
    controllers=frozenset({"cpu", "memory"}),
    kernel="6.18",
    features=dict.fromkeys(FEATURES, True),
    users=("www-data",),
    listeners=(Listener("web", "127.0.0.1:80", 80, 65535),),
    somaxconn=4096,
    disks=(Disk("/var", 50 * GB, 100 * GB, 1_000_000, 2_000_000),),
    folders={"state_dir": Inode("/var/lib/x", 0, 0, 0o40700), "log_dir": Inode("/var/log/x", 0, 0, 0o40750)},
    people=(ALICE,),
    way=way(DIR),
    conf_way=(Inode("/", 0, 0, DIR), Inode("/etc/x.ini", 0, 0, 0o644)),
    now=1_800_000_000.0,
    synchronised=True,
    python=(3, 11, 2),
    executable="/usr/bin/python3",
    systemd=True,
    services=("impetusd",),
)
CASES = [
    ("configuration", FAIL, {"problems": ("x.ini:1: bad", "x.ini:2: worse")}, "x.ini:1: bad and 1 more"),
    ("descriptors", FAIL, {"nofile": 100}, "RLIMIT_NOFILE) is 100, but 10 processes need about 144"),
    ("descriptors", FAIL, {"nofile": 50, "processes": 1}, "RLIMIT_NOFILE) is 50, but 1 process needs about 72"),
    ("descriptors", WARN, {"nofile": 200}, "is 200"),
    ("processes", FAIL, {"pids": (95, 100)}, "pids.max is 100 and 95 are in use"),
    ("processes", WARN, {"pids": (80, 100)}, "80 are in use"),
    ("inotify", WARN, {"inotify": (8, 65536)}, "max_user_instances is 8"),
    ("inotify", WARN, {"inotify": (128, 100), "watches": True}, "max_user_watches 100"),
    ("cgroup", WARN, {"cgroup": ""}, "there is no cgroup v2 tree"),
    ("cgroup", WARN, {"cgroup_writable": False}, "/sys/fs/cgroup/x is not writable"),
    ("cgroup", WARN, {"controllers": frozenset({"cpu"})}, "no memory controller"),
    ("kernel", FAIL, {"features": {"P_PIDFD": False}}, "has no P_PIDFD, which needs Linux 5.4"),
    ("kernel", WARN, {"features": {"PIDFD_INFO_EXIT": False}}, "has no PIDFD_INFO_EXIT, which needs Linux 6.15"),
    (
        "ports",
        FAIL,
        {"listeners": (Listener("web", "h:80", 80, 9, "nginx (pid 7)"),)},
        "web listens on h:80, which is in use by nginx",
    ),
    ("ports", FAIL, {"may_bind": False}, "below 1024"),
    ("backlog", WARN, {"somaxconn": 128}, "net.core.somaxconn is 128"),
    ("disk", WARN, {"disks": (Disk("/var", 5 * GB, 100 * GB),)}, "/var: 5.0 GB free, 5%"),
    ("disk", WARN, {"disks": (Disk("/tmpfs", 10 << 20, 20 << 20),)}, "/tmpfs: 10 MB free, 50%"),
    ("disk", FAIL, {"disks": (Disk("/var", 10 << 20, 100 * GB),)}, "/var: 10 MB free, 0%"),
    ("disk", FAIL, {"disks": (Disk("/var", 50 * GB, 100 * GB, 3, 1000),)}, "3 inodes free, 0%"),
    ("permissions", FAIL, {"files": (("/x.ini", FOREIGN),)}, "/x.ini: it belongs to user 7"),
    ("permissions", WARN, {"code": (("web", "/srv/app", FOREIGN),)}, "web runs /srv/app: it belongs to user 7"),
    ("permissions", WARN, {"folders": {"log_dir": Inode("/log", 7, 7, 0o40755)}}, "log_dir /log belongs to user 7"),
    ("permissions", FAIL, {"folders": {"run_dir": Inode("/run", 0, 0, 0o40777)}}, "run_dir /run is writable by others"),
    (
        "permissions",
        FAIL,
        {"folders": {"state_dir": Inode("/lib", 0, 0, 0o40770)}},
        "state_dir /lib is writable by others",
    ),
    (
        "roles",
        FAIL,
        {"way": way(0o40750)},
        "viewer alice cannot reach the control socket because of /run/x (mode 0750)",
    ),
    ("roles", FAIL, {"way": way(DIR, 0o600)}, "/run/x/control.sock (mode 0600)"),
    ("roles", WARN, {"conf_way": (Inode("/etc/x.ini", 0, 0, 0o640),)}, "viewer alice may not read /etc/x.ini"),
    ("clock", FAIL, {"now": 0.0}, "years behind"),
    ("clock", WARN, {"synchronised": False}, "unsynchronized"),
    ("python", WARN, {"compiled": False}, "not compiled"),
    ("boot", WARN, {"services": ()}, "no systemd service starts /etc/x.ini"),
]


def test_of_a_good_host_nothing_but_good_is_told():
    findings = doctor.examine(GOOD)
    assert {finding.level for finding in findings} == {OK}
    assert not [finding for finding in findings if finding.why or finding.fix]


@pytest.mark.parametrize(("subject", "level", "changes", "what"), CASES)
def test_what_is_wrong_is_told_with_why_it_matters_and_how_to_mend_it(subject, level, changes, what):
    bad = [finding for finding in doctor.examine(dataclasses.replace(GOOD, **changes)) if finding.level != OK]
    assert [(finding.subject, finding.level) for finding in bad] == [(subject, level)]
    assert what in bad[0].what
    assert bad[0].why
    assert bad[0].fix


def test_no_judgement_is_without_a_case():
    judged = {finding.subject for judge in JUDGES for finding in judge(GOOD)} | {"backlog"}
    assert {subject for subject, *_ in CASES} == judged


@pytest.mark.parametrize(
    "changes",
    [
        {"listeners": (Listener("web", "h:80", 80, 9, "impetusd"),), "may_bind": False},
        {"nofile": -1},
        {"pids": (9_980, 10_000), "running": 5, "processes": 5_000},  # most of them are ours
        {"people": (), "way": way(0o40700)},
        {"systemd": False, "services": ()},
        {"first_process": True, "services": ()},
        {"disks": (Disk("/proc-like", 0, 0),)},
        {"inotify": (128, 10)},
        dict.fromkeys(("nofile", "pids", "inotify", "cgroup", "somaxconn", "synchronised")),
    ],
)
def test_what_is_as_it_should_be_in_another_way(changes):
    assert doctor.worst(doctor.examine(dataclasses.replace(GOOD, **changes))) == OK


def test_the_report_for_programs():
    report = json.loads(json.dumps(doctor.report(doctor.examine(dataclasses.replace(GOOD, now=0.0)))))
    assert report["level"] == FAIL
    assert {"subject", "level", "what", "why", "mend"} == set(report["findings"][0])
