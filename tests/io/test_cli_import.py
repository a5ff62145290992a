"""`impetusd import`: small files of each manager, what the INI says then, and what the report says of it."""

from __future__ import annotations

import json
import os
import shutil
import stat
import textwrap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_world import lost, read_back

from impetusd.core.config import parser
from impetusd.interop.importing import kinds, node, pm2_keys, report, rows, supervisord_keys, writer
from impetusd.interop.importing.model import Fate, ImportFault, Options

NODE = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")


@pytest.fixture
def made(tmp_path):
    """Writes a file, imports it; gives (Config, Imported, INI text)."""

    def make(name, text, environ=None, **options):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return read_back(path, environ, **options)

    return make


class TestSupervisord:
    def test_a_program_with_everything(self, made, tmp_path):
        config, imported, _ = made(
            "supervisord.conf",
            """
            [supervisord]
            nodaemon = true
            environment = BASE="1",MODE="prod"
            [program:web_app]
            command = %(here)s/run --name=%(program_name)s --port %(ENV_PORT)s --pct 5%% 'a b' ; comment
            directory = srv
            environment = KEY="a,b$c",MODE='x'
            autostart=false
            AutoRestart=true
            startsecs=5
            startretries=7
            stopsignal=3
            stopwaitsecs=60
            user=www-data
            umask=027
            redirect_stderr=true
            stdout_logfile=/var/log/web.log
            stdout_logfile_maxbytes=10MB
            stdout_logfile_backups=4
            """,
            {"PORT": "8080"},
        )
        unit = config.units["web_app"]
        assert unit.command == (f"{tmp_path}/run", "--name=web_app", "--port", "8080", "--pct", "5%", "a b")
        assert unit.env == {"BASE": "1", "MODE": "x", "KEY": "a,b$c"}
        assert (unit.cwd, unit.user, unit.umask, unit.autostart) == (f"{tmp_path}/srv", "www-data", 0o27, False)
        assert (unit.autorestart.value, unit.min_uptime, unit.max_restarts) == ("always", 5.0, 7)
        assert (unit.kill_signal, unit.kill_timeout, unit.env_pass) == (
            3,
            60.0,
            ("*", "HOME", "USER", "LOGNAME", "SHELL"),
        )
        assert unit.out_file == unit.error_file == "/var/log/web.log"
        assert (unit.log_max_size, unit.log_keep, unit.log_compress) == (10 << 20, 4, False)
        assert rows.is_faithful(imported.rows)

    def test_a_variable_in_a_command_is_split_as_supervisord_splits_it(self, made):
        text = "[program:x]\ncommand=x %(ENV_OPTS)s --a=%(ENV_OPTS)s '%(ENV_OPTS)s'\n"
        unit = made("s.conf", text, {"OPTS": "-b 1"})[0].units["x"]
        assert unit.command == ("x", "-b", "1", "--a=-b", "1", "-b 1")

    def test_defaults_that_nobody_wrote(self, made):
        unit = made("s.conf", "[program:x]\ncommand=x\n")[0].units["x"]
        assert (unit.autorestart.value, unit.log_max_size, unit.log_keep) == ("on-failure", 50 << 20, 10)

    @pytest.mark.parametrize(
        ("codes", "how", "left"), [("0", "on-failure", ()), ("0,2", "on-failure", (2,)), ("2", "always", (2,))]
    )
    def test_exit_codes(self, made, codes, how, left):
        unit = made("s.conf", f"[program:x]\ncommand=x\nautorestart=unexpected\nexitcodes={codes}\n")[0].units["x"]
        assert (unit.autorestart.value, unit.stop_exit_codes) == (how, left)

    @pytest.mark.parametrize("device", ["/dev/stdout", "/dev/fd/1", "/proc/1/fd/1"])
    def test_output_of_a_container(self, made, device):
        text = f"[program:x]\ncommand=x\nstdout_logfile={device}\nstdout_logfile_maxbytes=0\nstderr_logfile=NONE\n"
        unit = made("s.conf", text)[0].units["x"]
        assert (unit.out_file, unit.error_file, unit.log_max_size) == ("stdout", "/dev/null", 0)

    def test_instances(self, made):
        text = (
            "[program:x]\ncommand=x --n %(process_num)s\nnumprocs=3\nprocess_name=%(program_name)s_%(process_num)02d\n"
        )
        unit = made("s.conf", text)[0].units["x"]
        assert (unit.instances, unit.command) == (3, ("x", "--n", "0"))

    def test_instances_with_numbers_that_ours_do_not_have(self, made):
        text = "[program:x]\ncommand=x --port 80%(process_num)02d\nnumprocs=2\nnumprocs_start=1\n"
        config, _, _ = made("s.conf", text)
        assert [unit.command[2] for unit in config.units.values()] == ["8001", "8002"]
        assert config.groups["x"].members == ("x-1", "x-2")

    def test_a_program_that_the_environment_names(self, made):
        text = "[program:x]\ncommand = %(ENV_PYTHON)s a.py\n[program:y]\ncommand = '%(ENV_PYTHON)s' b.py\n"
        config, imported, _ = made("s.conf", text, {"PYTHON": "nice python3"})
        assert [config.units[each].command for each in "xy"] == [("nice", "python3", "a.py"), ("nice python3", "b.py")]
        assert made("s.conf", text)[0].units["x"].command == ("/PYTHON/is/not/set", "a.py")
        assert any("set PYTHON" in each for each in imported.todo)

    def test_includes_groups_and_what_is_lost(self, made, tmp_path):
        (tmp_path / "conf.d").mkdir()
        (tmp_path / "conf.d" / "b.conf").write_text("[program:b]\ncommand=%(here)s/b\n")
        (tmp_path / "supervisor.d").mkdir()
        (tmp_path / "supervisor.d" / "d.conf").write_text("[program:d]\ncommand=d\nuser=www-data\n")
        (tmp_path / "etc" / "sup").mkdir(parents=True)
        (tmp_path / "etc" / "sup" / "c.conf").write_text("[program:c]\ncommand=c\n[program:a]\npriority=5\n")
        config, imported, text = made(
            "s.conf",
            """
            [include]
            files = conf.d/*.conf /etc/sup/*.conf gone/*.conf /etc/elsewhere/*.conf
            [program:a]
            command=a
            stdout_events_enabled=true
            [group:all]
            programs=a,b
            [eventlistener:e]
            command=e
            """,
            root=str(tmp_path),
        )
        assert set(config.units) == {"a", "b", "c", "d"}
        assert config.units["d"].env_pass == ("*", "HOME", "USER", "LOGNAME", "SHELL")
        assert config.units["b"].command == (f"{tmp_path}/conf.d/b",)
        assert config.groups["all-1"].members == ("a", "b")
        assert "; depends_on = a" in text
        assert {(row.section, row.key) for row in imported.rows if row.fate is Fate.LOST} == {
            ("include", "files"),
            ("program:a", "stdout_events_enabled"),
            ("eventlistener:e", ""),
        }

    @pytest.mark.parametrize(
        "text",
        [
            "[program:x]\n",
            "[program:x]\ncommand=%(nothing)s\n",
            "[program:x]\ncommand='x\n",
            "[program:x]\ncommand=x\nenvironment=A\n",
            "[program:x]\ncommand=x\nstartsecs=soon\n",
            "[program:x]\ncommand=x\nnumprocs=100000\n",
            "command=x\n",
            "[program:x]\ncommand=x 5%\n",
        ],
    )
    def test_what_supervisord_refuses_is_said(self, made, text):
        with pytest.raises(ImportFault):
            made("s.conf", f"{text}[supervisord]\n")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.dictionaries(
            st.sampled_from(sorted({*supervisord_keys.KEYS, "what"})),
            st.text(alphabet="ab01%(){}$\"',=/-\n ;", max_size=12),
            max_size=6,
        )
    )
    def test_nothing_else_is_raised(self, tmp_path, keys):
        body = "".join(f"{key} = {value}\n" for key, value in ({"command": "x"} | keys).items())
        _try(tmp_path / "s.conf", f"[program:x]\n{body}")


def _try(path, text):
    path.write_text(text, encoding="utf-8")
    try:
        imported = kinds.read(str(path), "", Options())
        text, _problems = writer.without_faults(imported, str(path.parent / "impetusd.ini"))
    except ImportFault:
        return
    list(report.lines(imported))
    report.as_json(imported)


class TestPm2:
    def test_an_app_with_everything(self, made, tmp_path):
        config, imported, _ = made(
            "ecosystem.config.js",
            """
            const path = require('path')
            module.exports = {
              apps: [{
                name: 'api', script: './src/app.js', cwd: path.join(__dirname, 'api'), args: '--x "a b"', node_args: ['--max-old-space-size=512'],
                env: { NODE_ENV: 'development', N: 1, B: true, O: {a: [1]}, SECRET: process.env.SECRET, URL: process.env.URL || 'http://x' },
                env_production: { NODE_ENV: 'production' },
                max_memory_restart: '300M', min_uptime: '10s', max_restarts: 5, restart_delay: 4000, kill_timeout: 3000, autorestart: false,
                exp_backoff_restart_delay: 100, cron_restart: '0 3 * * *', error_file: 'logs/err.log', out_file: '/dev/null',
                log_date_format: 'YYYY', watch: ['src'], ignore_watch: ['node_modules', 'logs/*'], namespace: 'shop', uid: 'www-data', vizion: false,
              }],
              deploy: { production: { user: 'x' } },
            }
            """,
        )
        unit = config.units["api"]
        assert unit.command == ("node", "--max-old-space-size=512", f"{tmp_path}/api/src/app.js", "--x", "a b")
        assert unit.env == {
            "NODE_ENV": "development",
            "N": "1",
            "B": "true",
            "O": '{"a":[1]}',
            "URL": "http://x",
            "NODE_APP_INSTANCE": "0",
        }
        assert (unit.cwd, unit.user, unit.kill_signal, unit.kill_timeout) == (f"{tmp_path}/api", "www-data", 2, 3.0)
        assert (unit.max_memory_restart, unit.min_uptime, unit.max_restarts, unit.restart_delay) == (
            300 << 20,
            10.0,
            5,
            4.0,
        )
        assert (unit.exp_backoff_max_delay, unit.cron_restart, unit.time) == (15.0, "0 3 * * *", True)
        assert (unit.out_file, unit.error_file) == ("/dev/null", f"{tmp_path}/api/logs/err.log")
        assert (unit.watch, unit.watch_ignore) == ((f"{tmp_path}/api/src",), ("node_modules", "logs"))
        assert config.groups["shop"].members == ("api",)
        assert lost(imported) == {"deploy"}
        assert next(row.line for row in imported.rows if row.key == "cron_restart") == 9

    def test_defaults_of_pm2(self, made):
        unit = made("process.json", '{"name": "a", "script": "a.js"}  // bare')[0].units["a"]
        assert (unit.kill_signal, unit.kill_timeout, unit.autorestart.value) == (2, 1.6, "always")

    @pytest.mark.parametrize(
        ("app", "command"),
        [
            ('"script": "npm", "args": "run start"', ("npm", "run", "start")),
            ('"script": "npm start"', ("bash", "-c", "npm start")),
            ('"script": "a.py", "interpreter": "./venv/bin/python"', ("./venv/bin/python", "HERE/a.py")),
            ('"script": "a.py"', ("python" if shutil.which("python") else "python3", "HERE/a.py")),
            ('"script": "./run.sh"', ("bash", "HERE/run.sh")),
            ('"script": "/bin/x", "interpreter": "none", "args": ["a", "b c"]', ("/bin/x", "a", "b c")),
            (
                '"script": "gunicorn", "interpreter": "none", "args": "app:app -b :1"',
                ("gunicorn", "app:app", "-b", ":1"),
            ),
        ],
    )
    def test_what_runs_a_script(self, made, tmp_path, app, command):
        unit = next(iter(made("process.json", f"{{{app}}}")[0].units.values()))
        bash = shutil.which("bash", path="/usr/local/bin:/usr/bin:/bin")
        command = (bash if command[:2] == ("bash", "-c") else command[0], *command[1:])
        assert unit.command == tuple(word.replace("HERE", str(tmp_path)) for word in command)

    def test_a_cluster_shares_the_port_of_its_variable(self, made):
        config, imported, _ = made(
            "process.json",
            '{"apps": [{"name": "a", "script": "a.js", "instances": 4, "wait_ready": true, "env": {"PORT": 3000}}]}',
        )
        unit = config.units["a"]
        assert ([str(each) for each in unit.listen], unit.instances, unit.wait_ready) == (["[::]:3000"], 4, True)
        assert rows.is_faithful(imported.rows)

    def test_a_cluster_never_fights_for_a_port(self, made):
        config, imported, text = made(
            "process.json", '{"apps": [{"name": "a", "script": "a.js", "instances": "max", "exec_mode": "cluster"}]}'
        )
        assert config.units["a"].instances == 1
        assert lost(imported) == {"instances"}
        assert "; instances = max, and listen = [::]:PORT" in text

    def test_yaml(self, made):
        config, _, _ = made(
            "ecosystem.yaml",
            "apps:\n  - name: w\n    script: w.js\n    watch: on\n    env:\n      A: yes\n      T: 12:30\n",
        )
        assert config.units["w"].env == {"A": "yes", "T": "12:30", "NODE_APP_INSTANCE": "0"}

    def test_a_dump(self, made):
        app = {"name": "w", "pm_exec_path": "/srv/w.js", "pm_cwd": "/srv", "exec_interpreter": "node", "exec_mode": "fork_mode",
               "kill_timeout": 1600, "env": {"A": "1", "PATH": "/bin", "HOME": "/root"}, "status": "online"}  # fmt: skip
        unit = made("dump.pm2", json.dumps([app, app]))[0].units["w"]
        assert (unit.command, unit.cwd, unit.instances) == (("node", "/srv/w.js"), "/srv", 2)
        assert unit.env == {"A": "1", "NODE_APP_INSTANCE": "0"}

    @NODE
    def test_javascript_that_computes_is_run_twice_and_no_secret_is_written(self, made, tmp_path, monkeypatch):
        monkeypatch.setenv("TOKEN", "hunter2")
        os.chmod(tmp_path, 0o700)
        config, imported, text = made(
            "ecosystem.config.js",
            """
            console.log('noise')
            const names = ['a', 'b']
            module.exports = { apps: names.map((name, i) => ({
              name, script: name + '.js', env: { TOKEN: process.env.TOKEN, PORT: Number(process.env.PORT || 3000 + i), U: `x${process.env.HOST || 'y'}` },
            })) }
            """,
            run_node=node.run,
        )
        assert "hunter2" not in text
        assert set(config.units) == {"a", "b"}
        assert config.units["b"].env["U"] == "xy"
        assert "TOKEN" not in config.units["a"].env  # handed on as it is
        assert any("run with node" in each for each in imported.differs)

    def test_no_node_names_the_line(self, made):
        with pytest.raises(ImportFault) as caught:
            made("ecosystem.config.js", "const x = 1\nmodule.exports = f(x)\n")
        assert caught.value.line == 2

    def test_arrays_of_arrays_are_not_endless(self, made):
        text = "const a0 = ['x']\n" + "".join(f"const a{n + 1} = [a{n}, a{n}]\n" for n in range(40))
        with pytest.raises(ImportFault, match="too long"):
            made("ecosystem.config.js", text + "module.exports = { apps: [{ script: 'a.js', env: { A: a40 } }] }")

    @NODE
    def test_a_script_that_fails_with_markers_is_taken_as_it_is(self, made, tmp_path):
        text = "const f = () => 'a.js'\nif (process.env.X) throw new Error('no')\nmodule.exports = { apps: [{ script: f() }] }"
        config, imported, _ = made("ecosystem.config.js", text, run_node=node.run)
        assert "a" in config.units
        assert lost(imported) == {"*"}

    @NODE
    def test_an_endless_script_is_ended(self, made, tmp_path, monkeypatch):
        monkeypatch.setattr(node, "LONGEST", 1.0)
        with pytest.raises(ImportFault, match="did not finish"):
            made("ecosystem.config.js", "for (;;) {}\n", run_node=node.run)

    @NODE
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
    def test_a_file_of_others_is_not_run(self, made, tmp_path):
        path = tmp_path / "other.config.js"
        path.write_text("module.exports = f()")
        os.chown(path, 65534, 65534)
        with pytest.raises(ImportFault, match="running it is unsafe"):
            node.run(str(path))

    @pytest.mark.parametrize(
        "text", ["module.exports = {}", "[]", '{"apps": [1]}', '{"apps": {}}', '{"apps": [{"name": "x"}]}', '{"a"', ""]
    )
    def test_what_names_no_app_is_said(self, made, text):
        with pytest.raises(ImportFault):
            made("ecosystem.json", text)

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.dictionaries(
            st.sampled_from(sorted({*pm2_keys.KEYS, *pm2_keys.ALIASES, "env_x", "what"})),
            st.recursive(
                st.none()
                | st.booleans()
                | st.integers()
                | st.floats(allow_nan=False, allow_infinity=False)
                | st.text(max_size=8),
                lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=4), each, max_size=3),
                max_leaves=4,
            ),
            max_size=6,
        )
    )
    def test_nothing_else_is_raised(self, tmp_path, keys):
        _try(tmp_path / "p.json", json.dumps({"apps": [{"script": "a.js"} | keys]}))


class TestOthers:
    def test_a_procfile(self, made, tmp_path):
        (tmp_path / ".env").write_text("A=1\n")
        config, _, _ = made(
            "Procfile",
            "# x\nrelease: ./migrate\nweb: gunicorn -b 0.0.0.0:$PORT app:app\nworker: celery -A app worker\n",
        )
        assert config.units["web"].command == ("sh", "-c", "gunicorn -b 0.0.0.0:$PORT app:app")
        assert config.units["web"].env == {"PORT": "5100"}
        assert config.units["worker"].command == ("celery", "-A", "app", "worker")
        assert config.units["worker"].env == {"PORT": "5200"}
        assert config.units["worker"].depends_on == ("release",)
        assert config.units["worker"].env_file == (f"{tmp_path}/.env",)
        assert config.units["release"].type == "oneshot"
        assert config.units["release"].env == {"PORT": "5000"}

    def test_a_service_with_a_drop_in(self, made, tmp_path):
        (tmp_path / "web.service.d").mkdir()
        (tmp_path / "web.service.d" / "more.conf").write_text(
            "[Service]\nRestartSec=5\nEnvironment=B=2\nExecReload=/bin/x\n"
        )
        config, imported, _ = made(
            "web.service",
            """
            [Unit]
            Description=The shop
            After=network.target db.service
            [Service]
            Type=notify
            User=www-data
            WorkingDirectory=/srv/%N
            Environment="A=1 2" PORT=80
            ExecStartPre=-/bin/mkdir -p /run/x
            ExecStart=/usr/bin/web --port ${PORT} \\
                --cost 5$$ --pct 1%%
            Restart=on-failure
            LimitNOFILE=65536
            TimeoutStopSec=1min 30s
            MemoryMax=1.5G
            [Install]
            WantedBy=multi-user.target
            """,
        )
        unit = config.units["web"]
        assert unit.command == ("/usr/bin/web", "--port", "80", "--cost", "5$", "--pct", "1%")
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of every service
        assert unit.env == {"A": "1 2", "PORT": "80", "B": "2", "PATH": path}
        assert (unit.cwd, unit.user, unit.wait_ready, unit.restart_delay) == ("/srv/web", "www-data", True, 5.0)
        assert (unit.kill_timeout, unit.max_memory_kill, unit.autorestart.value) == (90.0, 3 << 29, "on-failure")
        assert unit.rlimits == (("nofile", 65536, 65536),)
        assert unit.depends_on == ("web-pre",)
        assert config.units["web-pre"].type == "oneshot"
        assert lost(imported) == {"ExecReload"}

    def test_circus(self, made, tmp_path):
        config, _, _ = made(
            "circus.ini",
            """
            [circus]
            statsd = 1
            [watcher:web]
            cmd = chaussette --fd $(circus.sockets.web) app.wsgi
            numprocesses = 2
            use_sockets = True
            copy_env = true
            stop_signal = QUIT
            [socket:web]
            host = 0.0.0.0
            port = 8000
            [env:web]
            Mixed = x
            """,
        )
        unit = config.units["web"]
        assert unit.command == ("chaussette", "--fd", "3", "app.wsgi")
        assert ([str(each) for each in unit.listen], unit.instances, unit.env) == (["0.0.0.0:8000"], 2, {"Mixed": "x"})
        assert (unit.kill_timeout, unit.kill_signal, unit.env_pass) == (30.0, 3, ("*",))

    def test_circus_counts_from_one(self, made, tmp_path):
        text = "[watcher:w]\ncmd = $(circus.env.a) --port 80$(circus.wid)\nargs = $WID\nnumprocesses = 2\nvirtualenv = /v\n[env:w]\nA = b\nPATH = /x\n"
        config, _, _ = made("circus.ini", text, {"PATH": "/bin"})
        assert {name: unit.command for name, unit in config.units.items()} == {
            "w-1": ("b", "--port", "801", "1"),
            "w-2": ("b", "--port", "802", "2"),
        }
        assert (config.units["w-2"].env, config.units["w-2"].env_pass) == ({"A": "b", "PATH": "/v/bin:/x"}, ("!*",))
        assert config.groups["w"].members == ("w-1", "w-2")

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.sampled_from(["[Service]\nExecStart=x\n", "[watcher:x]\ncmd=x\n", "web: x\n", "apps:\n - script: x\n", ""]),
        st.lists(
            st.sampled_from(["Environment=A", "EnvironmentFile=-x", "RestartSec=1x", "cmd=$(circus.y)", "numprocesses=x", "%z", "User=%q", "a: 'b", "- [", "[", "x=y",
                             "Type=dbus", "KillMode=none", "rlimit_x=1", "graceful_timeout=a", "LimitCPU=z", "web: a 'b", "Nice=x", "\t", "ExecStart=", "stop_signal=x"]),
            max_size=6,
        ),
    )  # fmt: skip
    def test_nothing_else_is_raised(self, tmp_path, head, lines):
        for name in ("x.service", "Procfile", "circus.ini", "x.yaml"):
            _try(tmp_path / name, head + "\n".join(lines))


class TestCommand:
    CONF = '[program:web]\ncommand = web --port %(ENV_PORT)s\nenvironment = DB_PASSWORD="hunter2"\n'

    def test_an_ini_that_check_accepts_in_a_file_of_its_own(self, cli, tmp_path):
        source, target = tmp_path / "supervisord.conf", tmp_path / "new.ini"
        source.write_text(self.CONF)
        code, out, err = cli("import", str(source), "-o", str(target))
        assert (code, out) == (0, "")
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert "DB_PASSWORD = hunter2" in target.read_text()
        assert "hunter2" not in err
        assert f"{source}:2: kept: [program:web] command" in err
        assert cli("check", str(target))[0] == 0
        assert cli("import", str(source), "-o", str(target))[0] == 2
        assert cli("import", str(source), "-o", str(target), "--force")[0] == 0
        assert sorted(os.listdir(tmp_path)) == sorted({*os.listdir(tmp_path), "new.ini"})

    def test_standard_output_and_a_report_in_json(self, cli, tmp_path):
        source = tmp_path / "supervisord.conf"
        source.write_text(self.CONF + "stdout_syslog = true\n")
        code, out, err = cli("import", "--json", str(source))
        assert code == 1
        assert out.startswith("[program:web]\n")
        found = json.loads(err)
        assert [row["key"] for row in found["keys"] if row["fate"] == "lost"] == ["stdout_syslog"]
        assert "hunter2" not in err

    def test_several_files(self, cli, tmp_path):
        for name in ("a.conf", "b.conf"):
            (tmp_path / name).write_text(self.CONF)
        code, out, _ = cli("import", str(tmp_path / "a.conf"), str(tmp_path / "b.conf"))
        assert code == 0
        assert "[program:web-2]" in out
        assert "[env:web-2]" in out

    def test_of_several_files_each_unit_waits_for_those_of_its_own(self, cli, tmp_path):
        for name in ("a.service", "b/a.service"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("[Service]\nExecStartPre=/bin/true\nExecStart=/bin/sleep 1\n")
        _, out, _ = cli("import", str(tmp_path / "a.service"), str(tmp_path / "b/a.service"))
        units = parser.parse(out, "/x/impetusd.ini", {"HOME": "/root"}, writer.ANYWHERE).units
        assert {name: units[name].depends_on for name in ("a", "a-2")} == {"a": ("a-pre",), "a-2": ("a-pre-2",)}

    @pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"\0", b"hello world", b"[x]\n", "\ufdd1".encode()])
    def test_what_cannot_be_read(self, cli, tmp_path, data):
        (tmp_path / "x").write_bytes(data)
        code, out, err = cli("import", str(tmp_path / "x"))
        assert (code, out) == (2, "")
        assert err.startswith("impetusd: cannot import: ")
        assert "Traceback" not in err

    def test_what_is_not_there(self, cli, tmp_path):
        assert cli("import", str(tmp_path / "none"))[0] == 2
        assert cli("import", str(tmp_path))[0] == 2
