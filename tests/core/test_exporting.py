"""What an INI file becomes for other engines: workloads, compose files, objects of Kubernetes, and the fate of each key."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from impetusd.core.config import ini, parser, schema
from impetusd.core.config.include import Source
from impetusd.core.config.model import Host
from impetusd.core.config.problem import ConfigError
from impetusd.interop.exporting import (
    checks,
    compose,
    emit,
    fates,
    image,
    kubernetes,
    proof,
    reading,
    report,
    tables,
    values,
)
from impetusd.interop.exporting.kubernetes import _job_name
from impetusd.interop.exporting.model import Exported, Options, Role, Target, Workload, host_name
from impetusd.interop.importing import rows
from impetusd.interop.importing.model import Fate

CONF = "/srv/shop/impetusd.ini"
ANYWHERE = Host(euid=0, cpus=2, user_exists=lambda _: True, group_exists=lambda _: True)
POOL = "[pool:web]\napp = shop.web:create_app\nlisten = 127.0.0.1:8080\n"


def export(text, target=Target.KUBERNETES, *, environ=None, **options):
    """The model of such a file, which is proven as the command proves it."""
    source = Source(CONF, textwrap.dedent(text))
    environ = {"HOME": "/root", **(environ or {})}
    config = parser.parse_all(source, environ, ANYWHERE, profile=options.pop("profile", ""))
    made = reading.exported(source, config, Options(target=target, name="shop", image="shop:1", **options))
    assert proof.differences(made, config, environ) == []
    return made


def work(text, target=Target.KUBERNETES, **options):
    (found,) = export(text, target, **options).workloads
    return found


def objects(text, **options):
    """{(kind, name): object}, as a parser of YAML reads what is written; each judged by the schema and by our own checks."""
    made = export(text, **options)
    assert checks.kubernetes(kubernetes.objects(made)) == []
    found = [each for each in yaml.safe_load_all(kubernetes.text(made)) if each]
    assert found == checks.plain(kubernetes.objects(made))
    for each in found:
        kubernetes_validate.validate(each, "1.30", strict=True)
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def services(text, **options):
    made = export(text, Target.COMPOSE, **options)
    assert checks.compose(compose.document(made, inline=True)) == []
    found = yaml.safe_load(compose.text(made, inline=True))
    assert found == checks.plain(compose.document(made, inline=True))
    return found


def container(found, kind="Deployment", name="web"):
    (only,) = found[kind, name]["spec"]["template"]["spec"]["containers"]
    return only


def inner(workload):
    """The INI of a container: {section: {key: value as written}}."""
    sections, problems = ini.parse(workload.ini, CONF)
    assert problems == []
    return {each.name: {key: entry.value for key, entry in each.entries.items()} for each in sections}


def row(made, key, section=None):
    return next(each for each in made.rows if each.key == key and section in {None, each.section})


class TestYaml:
    @pytest.mark.parametrize(
        "text",
        ["on", "Yes", "n", "null", "~", "12:30", "0o7", "0x1f", "1e3", "1_000", "-1", ".5", ".inf", "=", "<<", "2026-11-30", "",
         " a", "a ", "a: b", "a #b", "#a", "- a", "? a", "a:", "*a", "&a", "!a", "%a", "@a", "`a", "{a}", "[a]", '"', "'", "\\", "\t",
         "a\rb", "a\n\n", "\n", "\na", " a\nb", "a\n b\n", "a\n\nb", "\u2028", "\x85x", "\ufeffa", "\ufdd0", "\U0001f600", "é", "\x07", "a\tb\nc", "$x", "5s", "1Mi"],
    )  # fmt: skip
    def test_a_text_stays_what_it_is(self, text):
        for value in ({"k": text}, {"k": [text]}, {"k": [{"k": text}]}, {text: 1}):
            if text != "<<" or next(iter(value)) == "k":
                assert yaml.safe_load(emit.document(value)) == value

    @settings(max_examples=100, deadline=None)
    @given(st.recursive(st.text(max_size=12) | st.integers() | st.booleans() | st.none(), lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3), max_leaves=8))  # fmt: skip
    @example({"a": [{"b": [], "c": {}}, "x"]})
    def test_anything_is_read_back(self, value):
        try:
            text = emit.document({"k": value})
        except ValueError:
            return  # a lone surrogate
        assert yaml.safe_load(text) == {"k": value}

    def test_comments_stand_where_they_belong_and_end_no_line(self):
        value = {
            "a": emit.Noted(1, "one\ntwo"),
            "b": emit.Noted({"c": 2}, "above"),
            "d": [emit.Noted({"e": 1, "f": 2}, "here")],
        }
        assert emit.document(value, "head\n") == textwrap.dedent("""\
            # head
            a: 1 # one two
            # above
            b:
              c: 2
            d:
              # here
              - e: 1
                f: 2
            """)


class TestFates:
    def test_every_key_has_one_for_each_target(self):
        assert set(fates.SECTIONS) == set(schema.SECTIONS)
        for section in schema.SECTIONS:
            assert set(schema.keys_of(section)) <= set(fates.SECTIONS[section]), section
            for key in schema.keys_of(section):
                for target in Target:
                    assert fates.rule(target, section, key).fate in Fate

    def test_no_table_has_a_key_that_there_is_not(self):
        known = {key.name for key in schema.KEYS}
        for table in (fates.UNITS, fates.ENDING, fates.TIMERS, fates.HEALTH, fates.OWN, fates.GROUPS, fates.INCLUDES):
            assert set(table) <= known

    def test_what_is_lost_says_what_to_do(self):
        for section, rules in fates.SECTIONS.items():
            for key, both in rules.items():
                for target in Target:
                    rule = fates.pick(target, both)
                    assert rule.fate is not Fate.LOST or rule.why, (section, key)

    def test_the_help_page_has_the_tables(self):
        path = Path(tables.__file__).parents[2] / "help" / tables.PAGE
        text = path.read_text(encoding="utf-8")
        assert text == tables.written(text), "run: python -m impetusd.interop.exporting.tables impetusd/help"

    def test_each_key_of_the_sample_has_its_row(self):
        text = (Path(__file__).parents[2] / "conf/impetusd.ini").read_text(encoding="utf-8")
        for target in Target:
            made = export(text, target)
            sections = ini.parse(text, CONF)[0]
            written = {(each.name, key) for each in sections for key in each.entries}
            assert {(each.section, each.key) for each in made.rows if each.key} == written

    def test_what_no_container_has_is_said_and_nothing_twice(self):
        text = "[env]\nA = 1\n[program:a]\ncommand = a\n[program:b]\ncommand = b\n[program:gone]\ncommand = x\nenabled = no\n[env:gone]\nB = 1\n[env:a@staging]\nC = 1\n"
        made = export(text)
        assert row(made, "B").fate is row(made, "C").fate is Fate.UNNEEDED
        assert len([each for each in made.rows if each.key == "A"]) == 1

    def test_the_report_masks_what_looks_secret(self):
        made = export(
            POOL
            + "[env:web]\nAPI_KEY = s3cr3t-value\nURL = amqp://u:s3cr3t-value@h/\n[gateway]\n[alert:x]\nurl = https://hooks.example/s3cr3t-value\n[host:b]\nurl = https://b.example/\ntoken = impd_s3cr3t-value-0123456789-0123456789\n"
        )
        said = "\n".join(report.lines(made)) + json.dumps(report.as_json(made))
        assert "s3cr3t-value" not in said
        assert not rows.is_faithful(made.rows)
        assert f"{CONF}:5: translated: [env:web] API_KEY" in said


class TestUnits:
    def test_a_pool_is_a_deployment_a_service_and_an_ini_of_it_alone(self):
        found = objects(
            POOL
            + "drain_timeout = 8s\nkill_timeout = 20s\nreload_watch = 3s\nreload_parallel = 2\n[program:other]\ncommand = x\n"
        )
        assert {kind for kind, name in found if name.startswith("web")} == {"ConfigMap", "Deployment", "Service"}
        spec = found["Deployment", "web"]["spec"]
        assert (spec["replicas"], spec["minReadySeconds"]) == (1, 3)
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 2}}
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 5 + 5 + 8 + 20
        only = container(found)
        assert (only["command"], only["args"], only["ports"]) == (
            ["impetusd"],
            ["run"],
            [{"name": "tcp-8080", "containerPort": 8080}],
        )
        text = found["ConfigMap", "web-ini"]["data"]["impetusd.ini"]
        assert "[pool:web]" in text
        assert "other" not in text
        assert {"listen             = 0.0.0.0:8080", "critical           = yes", "standby            = 0"} - set(
            text.splitlines()
        ) == set() or "0.0.0.0:8080" in text

    def test_blanks_in_a_header_are_no_part_of_a_name(self):
        found = work("[pool: web]\napp = shop.web:create_app\nlisten = 127.0.0.1:8080\n[env: web]\nA = 1\n")
        assert (found.name, found.env, inner(found)["pool: web"]["app"]) == ("web", {"A": "1"}, "shop.web:create_app")

    def test_nobody_is_root_and_nothing_is_written_but_to_volumes(self):
        only = container(objects(POOL + "capabilities = net_bind_service\n"))["securityContext"]
        assert only == {
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
        }

    def test_a_range_scales(self):
        found = objects(POOL + "instances = 2..8\n")
        scaling = found["HorizontalPodAutoscaler", "web"]["spec"]
        assert (scaling["minReplicas"], scaling["maxReplicas"]) == (2, 8)
        assert "replicas" not in found["Deployment", "web"]["spec"]
        assert container(found)["resources"]["requests"]["cpu"] == "100m"  # of which 70 % is reckoned
        assert found["PodDisruptionBudget", "web"]["spec"]["maxUnavailable"] == 1

    @pytest.mark.parametrize(("each", "containers", "inside"), [(1, 5, "1"), (2, 3, "2"), (9, 1, "5")])
    def test_instances_share_containers(self, each, containers, inside):
        found = work(POOL + "instances = 5\n", per_container=each)
        assert (found.replicas, inner(found)["pool:web"]["instances"]) == (containers, inside)

    def test_instances_that_differ_stay_together(self):
        found = work("[program:q]\ncommand = q --n ${INSTANCE}\ninstances = 3\n")
        assert (found.replicas, inner(found)["program:q"]) == (
            1,
            {"instances": "3", "critical": "yes", "command": "q --n ${INSTANCE}"},
        )

    def test_memory_and_cpu(self):
        found = objects(POOL + "max_memory_restart = 200M\ncpu_max = 150%\ninstances = 2\n", per_container=2)
        assert container(found)["resources"] == {
            "requests": {"cpu": "3000m", "memory": "496Mi"},
            "limits": {"cpu": "3000m", "memory": "596Mi"},
        }

    def test_checks_are_probes_and_only_one_party_acts(self):
        text = (
            POOL
            + """
[health:ready]
target = web
http = /ready
action = alert
interval = 7s
[health:live]
target = web
tcp = 127.0.0.1:8080
failures = 5
[health:body]
target = web
http = /x
body = fine
"""
        )
        only = container(objects(text))
        assert only["readinessProbe"] == {
            "httpGet": {"path": "/ready", "port": 8080},
            "periodSeconds": 7,
            "timeoutSeconds": 5,
            "failureThreshold": 3,
        }
        assert only["livenessProbe"] == {
            "tcpSocket": {"port": 8080},
            "periodSeconds": 30,
            "timeoutSeconds": 5,
            "failureThreshold": 5,
        }
        assert only["startupProbe"]["failureThreshold"] * only["startupProbe"]["periodSeconds"] >= 30
        assert {name for name in inner(work(text)) if name.startswith("health:")} == {"health:body"}
        assert {name for name in inner(work(text, Target.COMPOSE)) if name.startswith("health:")} == {
            "health:ready",
            "health:live",
            "health:body",
        }

    @pytest.mark.parametrize(
        "check", ["http = /x\nstatus = 204", "http = /x\nbody = b", "http = https://127.0.0.1/x", "http = /x\nheaders = Authorization: Bearer 0123456789ab", "http = /x?token=0123456789ab", "http = http://db.example:9/", "exec = true", "http = /${P:-x}"]
    )  # fmt: skip
    def test_what_no_kubelet_can_ask_impetusd_asks(self, check):
        found = work(POOL + f"[health:web]\n{check}\naction = alert\n")
        assert "health:web" in inner(found)
        assert found.readiness.argv == ("impetusd", "health", "-q")
        assert "0123456789ab" not in found.ini + repr(found)

    def test_a_program_that_opens_its_port_itself_has_a_service(self):
        made = export("[program:redis]\ncommand = redis-server\nready = tcp:127.0.0.1:6379\n")
        assert [port.number for port in made.workloads[0].ports] == [6379]
        assert "redis opens port 6379 itself: it must listen on 0.0.0.0, not on 127.0.0.1" in made.todo

    def test_one_and_several_are_spoken_of_as_such(self):
        made = export(
            "[program:q]\ncommand = q ${STATE_DIR}\nready = tcp:127.0.0.1:1\ninstances = 2\n[health:q]\ntcp = 127.0.0.1:2\n"
        )
        assert [each for each in made.todo if each.startswith("q opens ports 1, 2 itself:")]
        assert [each for each in made.todo if each.startswith("the containers of q share the files")]

    def test_others_are_reached_by_their_names(self):
        made = export(
            "[program:redis]\ncommand = redis-server\nready = tcp:127.0.0.1:6379\n"
            + POOL
            + "[env:web]\nR = redis://localhost:6379/0\nMINE = http://127.0.0.1:8080\n"
        )
        assert made.workloads[1].env == {"R": "redis://redis:6379/0", "MINE": "http://127.0.0.1:8080"}

    def test_a_unix_socket_becomes_a_port(self):
        found = work(POOL.replace("127.0.0.1:8080", "unix:${RUN_DIR}/web.sock mode=0666"))
        assert (inner(found)["pool:web"]["listen"], found.ports[0].number) == ("0.0.0.0:8080", 8080)

    def test_paths_are_those_of_the_image(self):
        text = f"[program:p]\ncommand = /srv/shop/run --conf ${{CONF_DIR}}/a --state ${{STATE_DIR}}/b $${{STATE_DIR}}\ncwd = /srv/shop/sub\nout_file = {CONF}.log\n"
        found = work(text)
        assert inner(found)["program:p"]["command"] == "/app/run --conf /app/a --state /data/b $${STATE_DIR}"
        assert inner(found)["program:p"]["cwd"] == "/app/sub"
        assert "out_file" not in found.ini
        assert found.data

    def test_one_that_keeps_files_is_never_there_twice(self):
        found = objects("[program:db]\ncommand = db ${STATE_DIR}/db\n")
        assert found["Deployment", "db"]["spec"]["strategy"]["type"] == "Recreate"
        assert found["PersistentVolumeClaim", "shop-data"]["spec"]["accessModes"] == ["ReadWriteOnce"]

    def test_another_variable_whose_name_begins_so_is_no_folder(self):
        found = work("[program:a]\ncommand = a ${STATE_DIRECTORY}\n", environ={"STATE_DIRECTORY": "/x"})
        assert (found.data, found.needs) == (False, {"STATE_DIRECTORY": False})

    def test_what_is_disabled_is_left_out_and_lost(self):
        made = export("[program:a]\ncommand = a\nenabled = no\n[timer:t]\ncommand = t\nevery = 1h\nenabled = no\n")
        assert made.workloads == []
        assert {each.key for each in made.rows if each.fate is Fate.LOST} == {"enabled"}

    def test_autostart_and_retry_after(self):
        found = work("[program:a]\ncommand = a\nautostart = no\nretry_after = 1m\n")
        assert (found.replicas, inner(found)["program:a"]["critical"]) == (0, "no")

    def test_users(self):
        assert (
            work("[program:a]\ncommand = a\nuser = 33:44\n").uid,
            work("[program:a]\ncommand = a\nuser = 33:44\n").gid,
        ) == (33, 44)
        made = export("[program:a]\ncommand = a\nuser = www-data\n")
        assert made.workloads[0].uid == 10001
        assert made.todo == [
            "a runs as www-data here, but as 10001 in its container; to keep www-data, write its numeric ID in the INI file"
        ]

    def test_a_profile_is_laid_over(self):
        found = work(
            POOL + "[env]\nA = 1\nB = 1\n[env:web]\nB = 2\n[env:web@production]\nB = 3\n", profile="production"
        )
        assert found.env == {"A": "1", "B": "3"}


class TestEndings:
    MIGRATE = "[program:migrate]\ncommand = migrate\ntype = oneshot\n"

    def test_a_oneshot_is_a_job_or_stands_before_who_depends_on_it(self):
        text = (
            self.MIGRATE + POOL + "depends_on = migrate, db\n[program:db]\ncommand = db\nready = tcp:127.0.0.1:5432\n"
        )
        found = objects(text)
        (job,) = [each for (kind, _), each in found.items() if kind == "Job"]
        assert job["spec"]["backoffLimit"] == 16
        assert job["spec"]["template"]["spec"]["containers"][0]["args"] == ["exec", "--own", "migrate"]
        before = objects(text, before=True)
        assert "Job" not in {kind for kind, _ in before}
        assert ("ConfigMap", "migrate-ini") in before
        assert [each["name"] for each in before["Deployment", "web"]["spec"]["template"]["spec"]["initContainers"]] == [
            "migrate",
            "wait-for-db",
        ]

    def test_what_stands_before_others_has_its_volume_and_is_named_once(self):
        text = (
            "[program:migrate]\ncommand = migrate ${STATE_DIR}/db\ntype = oneshot\nenv_file = secrets\n"
            + POOL
            + "instances = 2\ndepends_on = migrate\n[program:api]\ncommand = api\ndepends_on = migrate\n"
        )
        found = objects(text, before=True)
        assert found["PersistentVolumeClaim", "shop-data"]["spec"]["accessModes"] == ["ReadWriteMany"]
        for name in ("web", "api"):
            volumes = found["Deployment", name]["spec"]["template"]["spec"]["volumes"]
            assert {"name": "data", "persistentVolumeClaim": {"claimName": "shop-data"}} in volumes
        assert found["Deployment", "api"]["spec"]["strategy"]["type"] == "Recreate"
        assert kubernetes.text(export(text, before=True)).count("migrate needs a Secret") == 1

    def test_a_job_of_another_image_is_another_job(self):
        names = {
            _job_name(work(self.MIGRATE), Options(Target.KUBERNETES, "shop", image)) for image in ("shop:1", "shop:2")
        }
        assert len(names) == 2

    def test_in_swarm_it_is_started_until_it_is_done(self):
        found = services(self.MIGRATE)["services"]["migrate"]
        assert found["deploy"]["restart_policy"] == {"condition": "on-failure", "delay": "2s", "max_attempts": 16}
        found = services(self.MIGRATE + "autorestart = never\n")["services"]["migrate"]
        assert found["deploy"]["restart_policy"] == {"condition": "none"}

    def test_a_timer_is_a_cron_job(self):
        found = objects(
            "[timer:clean]\ncommand = clean\ncron = 30 3 * * 1-5\ntimezone = Europe/Lisbon\noverlap = replace\ntimeout = 2h\nretries = 3\ncatch_up = yes\n"
        )
        spec = found["CronJob", "clean"]["spec"]
        assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == (
            "30 3 * * 1-5",
            "Europe/Lisbon",
            "Replace",
        )
        assert (spec["jobTemplate"]["spec"]["activeDeadlineSeconds"], spec["jobTemplate"]["spec"]["backoffLimit"]) == (
            7200,
            3,
        )
        assert spec["startingDeadlineSeconds"] == 86400

    @pytest.mark.parametrize(
        ("when", "schedule"),
        [("cron = @daily", "0 0 * * *"), ("cron = 0 5 4 * * *", "5 4 * * *"), ("every = 1m", "* * * * *"), ("every = 15m", "*/15 * * * *"), ("every = 1h", "0 * * * *"), ("every = 6h", "0 */6 * * *"), ("every = 1d", "0 0 * * *")],
    )  # fmt: skip
    def test_times_that_a_cron_job_has(self, when, schedule):
        assert work(f"[timer:t]\ncommand = t\n{when}\n").schedule.cron == schedule

    @pytest.mark.parametrize(
        "when",
        [
            "cron = 30 5 4 * * *",
            "every = 20s",
            "every = 7m",
            "every = 90m",
            "every = 5h",
            "every = 2d",
            "cron = 0 0 L * *",
            "cron = 0 0 * * 7",
        ],
    )
    def test_others_impetusd_runs_in_a_container_of_its_own_and_never_twice(self, when):
        found = work(f"[timer:t]\ncommand = t\n{when}\njitter = 1s\n")
        assert (found.role, found.is_alone, inner(found)["timer:t"]["jitter"]) == (Role.SERVICE, True, "1s")

    def test_in_compose_impetusd_runs_them_all(self):
        made = export("[timer:t]\ncommand = t\ncron = 0 3 * * *\njitter = 5m\n", Target.COMPOSE)
        assert rows.is_faithful(made.rows)
        assert (
            services("[timer:t]\ncommand = t\ncron = 0 3 * * *\n")["services"]["t"]["deploy"]["update_config"]["order"]
            == "stop-first"
        )


class TestCompose:
    def test_a_service(self):
        found = services(
            POOL.replace("127.0.0.1", "0.0.0.0")
            + "instances = 2..4\nreload_watch = 8s\nlog_max_size = 10M\nlog_keep = 3\ndepends_on = db\n[program:db]\ncommand = db\n"
        )
        web = found["services"]["web"]
        assert web["ports"] == [{"target": 8080, "published": 8080, "protocol": "tcp", "mode": "ingress"}]
        assert web["depends_on"] == ["db"]
        assert web["logging"] == {
            "driver": "json-file",
            "options": {"max-size": "10240k", "max-file": "4", "compress": "true"},
        }
        assert web["deploy"]["replicas"] == 2
        assert web["deploy"]["update_config"] == {
            "parallelism": 1,
            "order": "start-first",
            "failure_action": "rollback",
            "monitor": "8s",
        }
        assert web["healthcheck"]["test"] == ["CMD", "impetusd", "status"]
        assert (web["read_only"], web["cap_drop"], web["user"]) == (True, ["ALL"], "10001:10001")

    def test_what_was_for_this_host_alone_is_not_published(self):
        found = services(POOL)["services"]["web"]
        assert "ports" not in found
        assert found["expose"] == ["8080"]

    def test_without_virtual_addresses(self):
        found = services(POOL.replace("127.0.0.1", "0.0.0.0"), dnsrr=True)["services"]["web"]
        assert (
            found["deploy"]["endpoint_mode"],
            found["ports"][0]["mode"],
            found["deploy"]["update_config"]["order"],
        ) == ("dnsrr", "host", "stop-first")

    def test_an_ini_that_changes_is_another_config(self):
        names = {services(POOL + f"backlog = {number}\n")["configs"]["web.ini"]["name"] for number in (1, 2)}
        assert len(names) == 2

    def test_a_folder_has_a_file_for_each(self):
        made = export(POOL + "[env:web]\nTOKEN = abcdefgh\n", Target.COMPOSE)
        found = compose.files(made)
        assert set(found) == {"compose.yaml", "web.ini", "web.env.example"}
        assert found["web.env.example"] == "TOKEN=\n"
        assert yaml.safe_load(found["compose.yaml"])["configs"]["web.ini"]["file"] == "./web.ini"
        assert inner(made.workloads[0])["pool:web"]["env_file"] == "/run/secrets/web.env"


SECRETS = """
[program:web]
command = run --token s3cr3t-1 --password=s3cr3t-2 'amqp://u:s3cr3t-3@h/' --plain ${X} "--key=${Y:-s3cr3t-4}"
env_file = /srv/web.env, -/srv/local.env
[health:web]
http = http://127.0.0.1:8080/?token=s3cr3t-5
headers = Authorization: Bearer s3cr3t-6666
[env]
ALL_SECRETS = s3cr3t-7
[env:web]
API_KEY = s3cr3t-8
URL = postgresql://u:s3cr3t-9@h/db
DSN = ${DSN:-postgresql://u:s3cr3t-10@h/db}
PASSED = ${PASSED}
WITH_DEFAULT = ${OTHER:-fine}
PLAIN = fine
[timer:t]
command = t --api-key s3cr3t-11
every = 1h
[env:t]
PASSWORD = "s3cr3t-12"
[gateway]
tls_key = /y
tls_cert = /x
[alert:a]
to = a@b.example
smtp_user = u
smtp_password = s3cr3t-14
"""


ENVIRON = {"X": "s3cr3t-shell-x", "PASSED": "s3cr3t-shell-p", "OTHER": "s3cr3t-shell-o", "Y": "s3cr3t-shell-y"}


class TestSecrets:
    @pytest.mark.parametrize("target", list(Target))
    def test_none_is_written_by_value(self, target):
        made = export(SECRETS, target, environ=ENVIRON)
        texts = [
            compose.text(made, inline=True),
            *compose.files(made).values(),
            kubernetes.text(made),
            *report.lines(made),
            json.dumps(report.as_json(made)),
        ]
        assert not [line for text in texts for line in text.splitlines() if "s3cr3t" in line]

    def test_they_are_referred_to(self):
        web = export(SECRETS, environ=ENVIRON).workloads[0]
        assert web.secret == ("ALL_SECRETS", "API_KEY", "URL", "DSN")
        assert web.env_files == ("/srv/web.env", "/srv/local.env")
        assert web.needs == {
            "WEB_TOKEN": False, "WEB_PASSWORD": False, "WEB_ARGUMENT_4": False, "WEB_KEY": False, "X": False, "WEB_WEB_HTTP": False,
            "WEB_WEB_HEADERS": False, "PASSED": False, "OTHER": True,
        }  # fmt: skip
        assert (
            inner(web)["program:web"]["command"]
            == 'run --token "${WEB_TOKEN}" "--password=${WEB_PASSWORD}" "${WEB_ARGUMENT_4}" --plain ${X} "--key=${WEB_KEY}"'
        )
        assert inner(web)["env:web"] == {"PASSED": "${PASSED}", "WITH_DEFAULT": "${OTHER:-fine}"}
        assert web.env == {"PLAIN": "fine"}
        env = {each["name"]: each for each in container(objects(SECRETS, environ=ENVIRON))["env"]}
        assert env["OTHER"]["valueFrom"]["secretKeyRef"] == {"name": "web-secret", "key": "OTHER", "optional": True}
        assert env["API_KEY"]["valueFrom"]["secretKeyRef"] == {"name": "web-secret", "key": "API_KEY"}

    def test_compose_asks_for_what_must_be_there(self):
        found = services(SECRETS, environ=ENVIRON)
        assert found["services"]["web"]["environment"]["PASSED"] == "${PASSED:?set PASSED}"
        assert found["services"]["web"]["environment"]["OTHER"] == "${OTHER:-}"
        assert found["services"]["web"]["secrets"][0]["mode"] == 0o400

    def test_what_every_container_has_is_not_asked_for(self):
        found = work(
            "[program:a]\ncommand = a ${HOME}/x\n[env:a]\nP = ${PATH}:/opt\nU = ${USER}\n",
            environ={"PATH": "/bin", "USER": "me"},
        )
        assert found.needs == {"USER": False}

    def test_a_reference_that_one_value_needs_is_needed(self):
        found = work("[program:a]\ncommand = a ${X:-1}\n[env:a]\nU = ${X}\n", environ={"X": "me"})
        assert found.needs == {"X": False}

    @pytest.mark.parametrize("value", ["${X}", "${KEY:-}", "postgresql://u:${PW}@h/", "", "${A:+${B}}"])
    def test_a_reference_is_no_secret(self, value):
        assert not values.is_secret("API_KEY" if "postgres" not in value else "URL", value)

    def test_a_dollar_stays_one(self):
        found = objects(POOL + "[env:web]\nA = a$$$$b $$(HOME) $$x\n")
        assert next(each["value"] for each in container(found)["env"] if each["name"] == "A") == "a$$$$b $$(HOME) $$x"

    def test_what_swarm_would_take_for_a_template_stays_inside(self):
        found = work(POOL + "[env:web]\nA = {{ .Task.Slot }}\nB = {x}\n", Target.COMPOSE)
        assert (found.env, inner(found)["env:web"]) == ({"B": "{x}"}, {"A": "{{ .Task.Slot }}"})

    def test_what_impetusd_itself_would_go_by_is_the_units_alone(self):
        found = work(POOL + "[env:web]\nPYTHONPATH = /srv/shop/lib\nTZ = UTC\nLISTEN_ON = 1\nLD_PRELOAD = x.so\n")
        assert found.env == {}
        assert inner(found)["env:web"] == {
            "PYTHONPATH": "/app/lib",
            "TZ": "UTC",
            "LISTEN_ON": "1",
            "LD_PRELOAD": "x.so",
        }


HOSTILE = st.text(alphabet="ab01:#-'\"\\ ,{}[]$&*!|>%@`\té\u2028\U0001f600=?;~", max_size=14)


class TestHostile:
    @settings(max_examples=40, deadline=None)
    @given(HOSTILE, HOSTILE, st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", fullmatch=True))
    @example("on", "12:30", "Web_1")
    @example("a: b #c", "${INSTANCE} $${X}", "all.in-one")
    def test_values_arrive_as_they_were(self, argument, value, name):
        text = f"[program:{name}]\ncommand = x '{argument}'\n[env:{name}]\nV = {value}\n"
        try:
            old = parser.parse(text, CONF, {"HOME": "/root"}, ANYWHERE)
        except ConfigError:  # check refuses it
            return
        made = export(text, Target.COMPOSE)
        found = yaml.safe_load(compose.text(made, inline=True))
        (service,) = found["services"].values()
        (config,) = found["configs"].values()
        environ = {key: each.replace("$$", "$") for key, each in service.get("environment", {}).items()}
        new = parser.parse(config["content"].replace("$$", "$"), CONF, {"HOME": "/root", **environ}, ANYWHERE)
        assert new.units[name].command == old.units[name].command
        assert {**environ, **new.units[name].env}.get("V", "") == old.units[name].env["V"]
        assert checks.kubernetes(kubernetes.objects(export(text))) == []


class TestImage:
    def text(self, ini_text, *files):
        config = parser.parse(ini_text, CONF, {}, ANYWHERE)
        return image.containerfile(config, image.Facts(set(files), "3.13", "1.2", "shop")).splitlines()

    def test_it_is_small_and_nobodys(self):
        lines = self.text(POOL, "requirements.txt", "pyproject.toml")
        assert "ARG BASE=docker.io/library/python:3.13-slim-bookworm" in lines
        assert 'ARG IMPETUSD="impetusd[asgi,wsgi]==1.2"' in lines
        assert "RUN /opt/venv/bin/pip install --no-cache-dir -r requirements.txt" in lines
        assert lines.index("USER 10001:10001") > lines.index("COPY . /app")
        assert lines[-3:] == [
            'HEALTHCHECK --interval=30s --timeout=10s --start-period=30s CMD ["impetusd", "status"]',
            'ENTRYPOINT ["impetusd"]',
            'CMD ["run"]',
        ]
        assert "EXPOSE 8080" in lines

    @pytest.mark.parametrize(
        ("ini_text", "extras"),
        [
            (POOL + "protocol = aiohttp\n", ""),
            (POOL + "protocol = wsgi\n", "[wsgi]"),
            ("[program:a]\ncommand = a\n", ""),
            ("[program:jobs]\ncommand = impetusd-service jobs\n", "[service]"),
        ],
    )
    def test_impetusd_is_there_with_what_its_pools_need(self, ini_text, extras):
        assert f'ARG IMPETUSD="impetusd{extras}==1.2"' in self.text(ini_text)

    def test_a_project_is_installed_where_nothing_else_says_what_it_needs(self):
        lines = self.text(POOL, "pyproject.toml")
        assert lines.index("RUN /opt/venv/bin/pip install --no-cache-dir .") == lines.index("COPY . .") + 1

    def test_programs_that_the_base_lacks_are_named(self):
        said = "\n".join(
            self.text(
                "[program:a]\ncommand = /usr/bin/redis-server\n[program:b]\ncommand = node x.js\nlisten = 127.0.0.1:1\n[program:c]\ncommand = './x\n  RUN evil' y\n"
            )
        )
        assert "also runs redis-server, node:" in said
        assert "RUN evil" not in said

    def test_secrets_and_what_each_host_makes_are_left_out(self):
        config = parser.parse(
            "[program:a]\ncommand = a\nenabled = no\nenv_file = conf/a.secret, -b.secret, /etc/x.env\n",
            CONF,
            {},
            ANYWHERE,
        )
        lines = image.ignored(config, [CONF, "/srv/shop/conf.d/[x].ini"]).splitlines()
        assert {
            "**/.env",
            "**/*.env",
            "**/*.pem",
            "impetusd.ini",
            "conf.d/\\[x\\].ini",
            "conf/a.secret",
            "b.secret",
            "var/lib",
        } <= set(lines)
        assert not [line for line in lines if line.startswith(("..", "/"))]


class TestNames:
    @pytest.mark.parametrize(
        ("name", "host"),
        [("web", "web"), ("Web_1", "web-1"), ("a..b", "a-b"), ("1st", "unit-1st"), ("___", "unit"), ("a-", "a")],
    )
    def test_a_name_of_a_host(self, name, host):
        assert host_name(name) == host

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", fullmatch=True), max_size=6))
    def test_each_is_one_and_its_own(self, names):
        taken = set()
        assert all(checks.is_name(f"wait-for-{host_name(name)}") for name in names)
        for name in names:
            taken.add(host_name(name, taken))
        assert len(taken) == len(names)
        assert all(checks.is_name(name) and len(name) <= 50 and name[0].isalpha() for name in taken)


class TestOwnChecks:
    """What kubernetes-validate passes."""

    @pytest.fixture
    def good(self):
        return checks.plain(
            kubernetes.objects(
                export(
                    POOL
                    + "max_memory_restart = 64M\ninstances = 2..3\n[env:web]\nA = 1\n[timer:t]\ncommand = t\ncron = 0 3 * * *\n"
                )
            )
        )

    @pytest.mark.parametrize(
        ("kind", "path", "value", "said"),
        [
            ("Deployment", ["metadata", "name"], "Web_1", "invalid name"),
            ("Service", ["metadata", "name"], "1web", "invalid name"),
            ("CronJob", ["metadata", "name"], "a" * 53, "invalid name"),
            ("Deployment", ["metadata", "labels", "app.kubernetes.io/name"], "a" * 64, "invalid label value"),
            ("Deployment", ["spec", "template", "spec", "containers", 0, "resources", "limits", "memory"], "64Mb", "invalid memory quantity"),
            ("Deployment", ["spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"], 99999, "invalid port"),
            ("Deployment", ["spec", "template", "spec", "containers", 0, "ports", 0, "name"], "a-name-too-long-x", "invalid port name"),
            ("Deployment", ["spec", "template", "spec", "containers", 0, "env", 0, "name"], "A=B", "invalid variable name"),
            ("Deployment", ["spec", "template", "spec", "containers", 0, "image"], "Shop:1", "invalid image name"),
            ("Deployment", ["spec", "template", "spec", "volumes", 0, "configMap", "name"], "other", "is missing"),
            ("Deployment", ["spec", "template", "metadata", "labels"], {}, "does not match its own template"),
            ("Service", ["spec", "selector"], {"a": "b"}, "matches no pod"),
            ("Service", ["spec", "ports", 0, "port"], 0, "invalid port"),
            ("HorizontalPodAutoscaler", ["spec", "minReplicas"], 9, "minReplicas 9 must be"),
            ("CronJob", ["spec", "schedule"], "0 25 * * *", "not within 0-23"),
            ("CronJob", ["spec", "schedule"], "@daily", "does not have five fields"),
        ],
    )  # fmt: skip
    def test_are_found(self, good, kind, path, value, said):
        assert checks.kubernetes(good) == []
        target = next(each for each in good if each["kind"] == kind)
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value
        found = checks.kubernetes(good)
        assert any(said in each for each in found), found

    @pytest.mark.parametrize("expression", ["* * * * *", "*/5 1-3,7 * jan-mar mon", "0 0 1 1 0", "59 23 31 12 6"])
    def test_a_cron_expression_that_is_one(self, expression):
        assert checks.cron_fault(expression) == ""

    @pytest.mark.parametrize(
        "expression",
        ["60 * * * *", "* * 0 * *", "*/0 * * * *", "5-1 * * * *", "* * * * 7", "a * * * *", "* * L * *", "* * * * 1#2"],
    )
    def test_a_cron_expression_that_is_none(self, expression):
        assert checks.cron_fault(expression)

    @pytest.mark.parametrize(
        ("path", "value", "said"),
        [
            (["deploy", "resources"], {"limits": {"memory": "64Mb"}}, "invalid memory size"),
            (["expose"], ["99999"], "invalid port"),
            (["depends_on"], ["db"], "is not defined"),
            (["image"], "a b", "invalid image name"),
            (["stop_grace_period"], "10", "invalid duration"),
            (["configs"], [{"source": "x"}], "x is not defined in configs"),
        ],
    )
    def test_of_compose(self, path, value, said):
        document = checks.plain(compose.document(export(POOL, Target.COMPOSE), inline=True))
        target = document["services"]["web"]
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value
        assert any(said in each for each in checks.compose(document))

    def test_two_of_one_name(self, good):
        assert any("defined twice" in each for each in checks.kubernetes([*good, good[0]]))


def test_the_same_file_gives_the_same_text():
    text = SECRETS
    first, second = (kubernetes.text(export(text, environ=ENVIRON)) for _ in range(2))
    assert first == second
    assert kubernetes.text(export(text, environ=dict.fromkeys(ENVIRON, "another"))) == first


def test_nothing_is_written_that_would_be_read_otherwise():
    text = "[program:a]\ncommand = a\nkill_timeout = 3s\n"
    config = parser.parse(text, CONF, {}, ANYWHERE)
    made = Exported(Options(Target.COMPOSE, "n", "i"), [Workload(unit="a", name="a", ini=text.replace("3s", "4s"))])
    assert proof.differences(made, config, {}) == ["the INI of a: kill_timeout would not be read back unchanged"]
