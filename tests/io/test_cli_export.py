"""`impetusd export` as it is typed: what is written where, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml

INI = """
[pool:web]
app = shop.web:create_app
listen = 127.0.0.1:8080
[env:web]
API_KEY = abcdefgh
"""


@pytest.fixture
def export(cli, paths, tmp_path, monkeypatch):
    """Runs it for an INI file, in a folder of its own; gives (code, out, err)."""
    monkeypatch.chdir(tmp_path)

    def run(*words, text=INI):
        Path(paths.conf).write_text(text, encoding="utf-8")
        return cli("export", *words)

    return run


def test_what_is_written_goes_to_standard_output_and_the_report_to_standard_error(export):
    code, out, err = export("kubernetes", "--name", "shop", "--image", "registry.example:5000/shop:1.4")
    assert code == 0
    found = {each["kind"]: each for each in yaml.safe_load_all(out) if each}
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example:5000/shop:1.4"
    assert found["Service"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "shop"
    assert "translated: [env:web] API_KEY" in err
    assert "to do: web: create the Secret web-secret with API_KEY" in err
    assert "abcdefgh" not in out + err


def test_a_compose_file_on_standard_output_has_its_ini_files_in_it(export):
    code, out, _ = export("compose")
    assert code == 0
    assert "[pool:web]" in yaml.safe_load(out)["configs"]["web.ini"]["content"]


def test_a_folder_is_written_and_not_overwritten_but_by_force(export, tmp_path):
    assert export("compose", "-o", "deploy")[0] == 0
    assert sorted(os.listdir(tmp_path / "deploy")) == ["compose.yaml", "web.env.example", "web.ini"]
    code, out, err = export("compose", "-o", "deploy")
    assert (code, out) == (2, "")
    assert "deploy/compose.yaml" in err
    assert "--force" in err
    (tmp_path / "deploy" / "web.ini").write_text("x")
    assert export("compose", "-o", "deploy", "--force")[0] == 0
    assert "[pool:web]" in (tmp_path / "deploy" / "web.ini").read_text()


def test_a_file_is_written(export, tmp_path):
    code, out, _ = export("kubernetes", "-o", "shop.yaml")
    assert (code, out) == (0, "")
    assert (tmp_path / "shop.yaml").read_text().startswith("# Made by impetusd export kubernetes")
    assert [name for name in os.listdir(tmp_path) if name.startswith("shop")] == ["shop.yaml"]


def test_something_lost_is_exit_code_1(export):
    code, out, err = export("kubernetes", text=f"{INI}[gateway]\n")
    assert (code, "kind: Deployment" in out) == (1, True)
    assert "lost: [gateway]" in err


def test_the_report_as_json(export):
    code, _, err = export("compose", "--json", text=f"{INI}[gateway]\nhosts = a.example\n")
    assert code == 1
    said = json.loads(err)
    assert said["workloads"] == [{"unit": "web", "name": "web", "role": "service"}]
    assert {"section": "gateway", "key": "hosts", "fate": "lost"}.items() <= said["keys"][-1].items()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compose", "--name", "My_Shop"], "write my-shop"),
        (["compose", "--image", "a b"], "not an image name"),
        (["compose", "--before"], "--before works only with kubernetes"),
        (["kubernetes", "--dnsrr"], "--dnsrr works only with compose"),
        (["kubernetes", "-o", "no/such/folder.yaml"], "cannot write no/such/folder.yaml"),
        (["nomad"], "Invalid value"),
    ],
)
def test_what_it_refuses(export, words, said):
    code, out, err = export(*words)
    assert (code, out) == (2, "")
    assert said in err


def test_an_ini_file_with_mistakes_gives_nothing(export):
    code, out, err = export("compose", text="[pool:web]\nlisten = nowhere\n")
    assert (code, out) == (2, "")
    assert "2 problems in the configuration" in err


def test_users_that_only_the_other_hosts_have_are_no_mistake(export):
    assert export("compose", text="[program:a]\ncommand = a\nuser = nobody-here-has-this\n")[0] == 0


def test_an_image(export, tmp_path):
    (tmp_path / "requirements.txt").touch()
    code, out, err = export("image", "--name", "shop")
    assert (code, err) == (0, "")
    assert "docker build -t shop " in out
    code, out, _ = export("image", "-o", ".")
    assert (code, out) == (0, "")
    assert "-r requirements.txt" in (tmp_path / "Containerfile").read_text()
    assert "impetusd.ini" in (tmp_path / ".dockerignore").read_text().splitlines()
    assert export("image", "-o", ".")[0] == 2


def test_an_image_of_what_says_nothing_of_its_needs(export, tmp_path):
    code, _, err = export("image", "-o", "elsewhere")
    assert code == 0
    assert "list the app's dependencies in" in err
    assert f"move both files to {tmp_path}" in err


def test_an_image_of_what_lies_where_this_host_has_nothing(export):
    code, _, err = export("image", "-o", ".", text=f"[impetusd]\nbase_dir = /no/such/folder\n{INI}")
    assert code == 0
    assert "move both files to /no/such/folder" in err
