"""`impetusd import` of PM2's JavaScript and TypeScript: what is read, what node runs, .env files, what is not there."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_world import lost, read_back

from impetusd.interop.importing import dotenv, node
from impetusd.interop.importing.model import ImportFault

NODE = pytest.mark.skipif(shutil.which("node") is None, reason="no node here")


@pytest.fixture
def made(tmp_path):
    """Writes files, imports the first; gives (Config, Imported, INI text)."""
    os.chmod(tmp_path, 0o700)

    def make(files, **options):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return read_back(tmp_path / next(iter(files)), **options)

    return make


def test_what_stands_beside_it_is_read(made):
    config, _, _ = made({
        "ecosystem.config.js": "const { ports } = require('./ports');\nconst pkg = require('./package.json')\nexports.apps = [{ name: pkg.name, script: 'a.js', env: { P: ports.web } }]",
        "ports.js": "module.exports.ports = require('./sub/../numbers.json')",
        "numbers.json": '{"web": 4000}',
        "package.json": '{"name": "shop"}',
    })  # fmt: skip
    assert config.units["shop"].env["P"] == "4000"


@pytest.mark.parametrize(
    "text",
    ["module.exports = require('./ecosystem.config')", "const x = require('./gone')", "module.exports = require('./x.js')"],
)  # fmt: skip
def test_a_circle_and_what_is_not_there_are_no_values(made, text):
    with pytest.raises(ImportFault, match="require"):
        made({"ecosystem.config.js": text, "x.js": "module.exports = f()"})


def test_typescript(made, tmp_path):
    config, _, _ = made({
        "ecosystem.config.ts": """
        import type { StartOptions } from 'pm2'
        import path from 'node:path'
        import { fileURLToPath } from 'node:url'
        const here: string = path.dirname(fileURLToPath(import.meta.url))
        const common: Partial<StartOptions> = { autorestart: false } as const
        export default { apps: [{ ...common, name: 'a', script: 'a.ts', cwd: here, interpreter: 'tsx' }] } satisfies { }
        """.replace(" satisfies { }", " as Config")
    })  # fmt: skip
    assert (config.units["a"].cwd, config.units["a"].command[0]) == (str(tmp_path), "tsx")
    assert config.units["a"].autorestart.value == "never"


def test_what_a_module_does_not_have_is_no_value(made):
    with pytest.raises(ImportFault, match="the property config of a computed value"):
        made({"ecosystem.config.js": "const { config } = require('path')\nmodule.exports = { apps: [] }"})


def test_named_exports_and_json_in_javascript(made):
    assert "a" in made({"ecosystem.config.mjs": "export const apps = [{ name: 'a', script: 'a.js' }]"})[0].units
    assert "b" in made({"pm2.config.js": '{"apps": [{"name": "b", "script": "b.js"}]}'})[0].units
    text = "module.exports = { deploy: {} };\nmodule.exports.apps = [{ name: 'd', script: 'd.js' }]; exports.apps = 1"
    assert "d" in made({"pm2.config.cjs": text})[0].units, "exports is what module.exports was at first"
    assert "c" in made({"process.json": '{"pm2": [{"name": "c", "script": "c.js"}]}'})[0].units


def test_python_is_what_pm2_would_take(made, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "python" else f"/usr/bin/{name}")
    unit = made({"process.json": '{"name": "a", "script": "a.py"}'})[0].units["a"]
    assert unit.command[0] == "python3"
    assert unit.env["PYTHONUNBUFFERED"] == "1"


@pytest.mark.parametrize(("written", "meant"), [("'4,'", 4), ("2.9", 2), ("'3'", 3), ("'x'", 1), ("null", 1)])
def test_instances_are_as_javascript_counts(made, written, meant):
    text = f"module.exports = {{ apps: [{{ name: 'a', script: 'a.sh', instances: {written} }}] }}"
    assert made({"ecosystem.config.js": text})[0].units["a"].instances == meant


def test_what_the_environment_decides(made):
    app = "name: 'a', script: 'a.sh', instances: process.env.N || 3, max_memory_restart: process.env.M || '1G', min_uptime: process.env.U || 5000"
    config, imported, text = made({"ecosystem.config.js": f"module.exports = {{ apps: [{{ {app} }}] }}"})
    unit = config.units["a"]
    assert (unit.instances, unit.max_memory_restart, unit.min_uptime) == (3, 1 << 30, 5.0)
    assert "${N:-3}" in text
    assert [each for each in imported.differs if "max_memory_restart of a no longer depends on M" in each]


class TestDotenv:
    APPS = "module.exports = { apps: [{ name: 'a', script: 'a.js', env: { TOKEN: process.env.TOKEN, PORT: process.env.SHOP_PORT || 3000, U: `http://${process.env.HOST}`%s } }] }"
    ENV = "TOKEN=hunter2\nSHOP_PORT=4000\nexport HOST='h' # ours\nCUT = x # a comment\n"

    def check(self, found, tmp_path):
        config, imported, text = found
        unit = config.units["a"]
        assert unit.env_file == (f"-{tmp_path}/.env",)
        assert unit.env == {"PORT": "4000", "U": "http://h", "NODE_APP_INSTANCE": "0", "CUT": "x"}
        assert "hunter2" not in text
        assert lost(imported) == set()

    def test_what_is_in_the_file_counts_and_secrets_stay_there(self, made, tmp_path):
        self.check(made({"pm2.config.js": "require('dotenv').config()\n" + self.APPS % "", ".env": self.ENV}), tmp_path)

    @NODE
    @pytest.mark.parametrize(
        "how", ["require('dotenv').config({ quiet: true })", "require('dotenv/config')", "const e = require('dotenv').config().parsed"]
    )  # fmt: skip
    def test_so_it_is_where_node_runs_the_file(self, made, tmp_path, monkeypatch, how):
        monkeypatch.chdir(tmp_path)
        text = f"{how}\nconst f = () => 1\n" + self.APPS % ", ...(typeof e === 'object' ? { TOKEN: e.TOKEN } : {})"
        self.check(made({"pm2.config.js": text, ".env": self.ENV}, run_node=node.run), tmp_path)

    @NODE
    @pytest.mark.parametrize("how", ["import 'dotenv/config'", "import { config } from 'dotenv'\nconfig()"])
    def test_and_in_an_es_module(self, made, tmp_path, how):
        text = f"{how}\nconst f = () => 1\n" + (self.APPS % "").replace("module.exports =", "export default")
        self.check(made({"pm2.config.mjs": text, ".env": self.ENV}, run_node=node.run), tmp_path)

    def test_a_file_that_is_not_there_may_be_missing(self, made, tmp_path):
        unit = made({"pm2.config.js": "require('dotenv').config({ path: '.env.local' })\n" + self.APPS % ""})[0].units["a"]  # fmt: skip
        assert unit.env_file == (f"-{tmp_path}/.env.local",)
        assert unit.env["PORT"] == "3000"

    def test_of_several_files_the_first_counts(self, made, tmp_path):
        text = "require('dotenv').config({ path: ['.env.local', '.env'] })\n" + self.APPS % ""
        env = {".env": "SHOP_PORT=1\nHOST=all # c\nCUT=a # c\n", ".env.local": "SHOP_PORT=2\nHOST=own\n"}
        unit = made({"pm2.config.js": text, **env})[0].units["a"]
        assert unit.env_file == (f"-{tmp_path}/.env", f"-{tmp_path}/.env.local"), "of which the last counts"
        assert unit.env == {"PORT": "2", "U": "http://own", "NODE_APP_INSTANCE": "0", "CUT": "a"}

    @settings(max_examples=150, deadline=None)
    @given(st.text(alphabet="ab =:'\"`\\n#\n\r\texport"))
    def test_any_text_has_values(self, text):
        assert dotenv.otherwise(text).keys() <= dotenv.parse(text).keys()

    def test_values_are_those_of_the_package(self):
        text = 'A=1\n B = "x\\ny" # c\nC=\'a # b\'\nexport D: e\nE=`a"b`\nF=\n#G=1\nH=a"b"\nI="multi\nline"\n'
        assert dotenv.parse(text) == {"A": "1", "B": "x\ny", "C": "a # b", "D": "e", "E": 'a"b', "F": "", "H": 'a"b"', "I": "multi\nline"}  # fmt: skip
        assert set(dotenv.otherwise(text)) >= {"B", "D", "E"}


@NODE
class TestWhatIsNotThere:
    def test_is_taken_as_empty_and_reported(self, made, tmp_path):
        text = """
        const fs = require('node:fs'), plugin = require('some-plugin'), { ports } = require('./generated/ports')
        if (!fs.existsSync(__dirname + '/.env.production')) throw new Error('make .env.production first')
        const n = fs.readFileSync(__dirname + '/.env.production', 'utf8').split('\\n').length
        module.exports = { apps: [{ name: 'a', script: 'a.js', env: { N: String(n), P: ports.web, X: plugin.make(1).y } }] }
        """
        config, imported, _ = made({"ecosystem.config.cjs": text}, run_node=node.run)
        assert config.units["a"].env == {"N": "1", "NODE_APP_INSTANCE": "0"}
        assert lost(imported) == {"some-plugin", "./generated/ports", f"{tmp_path}/.env.production"}

    def test_so_are_variables_without_which_it_fails(self, made):
        text = """
        for (const name of ['TOKEN', 'HOST']) if (!process.env[name]) throw new Error(`set ${name}`)
        module.exports = { apps: [{ name: 'a', script: 'a.js', env: { T: process.env.TOKEN, U: `http://${process.env.HOST}/`, N: 1 } }] }
        """
        config, imported, ini = made({"ecosystem.config.cjs": text}, run_node=node.run)
        assert config.units["a"].env == {"T": "", "U": "http:///", "N": "1", "NODE_APP_INSTANCE": "0"}
        assert "T                 = ${TOKEN:-}" in ini
        assert any("as if they were" in each for each in imported.differs)

    def test_a_file_that_fails_all_the_same_is_not_read(self, made):
        with pytest.raises(ImportFault, match="node cannot run it: no, never"):
            made({"ecosystem.config.cjs": "throw new Error('no, never')"}, run_node=node.run)

    def test_what_a_module_writes_there_itself_is_no_result(self, made):
        text = "require('fs').writeSync(Number(process.argv[3]), '[1]'); process.exit(0)"
        with pytest.raises(ImportFault, match="JSON"):
            made({"ecosystem.config.cjs": text}, run_node=node.run)
