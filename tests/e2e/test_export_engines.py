"""`gitrel export kubernetes` and `gitrel export nomad`, on a real ledger: kubectl takes what they print, it is the same
each time, and the commands in it bring up the app.

All tests share one ledger; they say which release they are about, and the first of them was there from the start.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml  # type: ignore[import-untyped]
from apps import PYTHON, Shop, farm, free_port, sealed
from conftest import program
from room import ROOT, run

__all__ = ["farm"]  # a fixture

SECRET = "the-token: itself"
IMAGE = f"registry.example.com/shop@sha256:{'0' * 64}"
APP = """\
import http.server, os

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(" ".join(os.environ[name] for name in ("GITREL_RELEASE", "COLOUR", "TOKEN")).encode())

server = http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Page)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def dev(farm: Any, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """v1 with plain config, and a secret for two readers: the developer, and a key made for pods, `identity.age`."""
    folder = tmp_path_factory.mktemp("engines")
    dev: Shop = farm.copy(0, folder / "dev")
    desk = dev.desk
    desk.write("app.py", APP)
    desk.write("Procfile", f"web: {PYTHON} app.py\nrelease: test $COLOUR = green && echo migrated\n")
    desk.manifest('[run.web]\nhealth = { path = "/" }\n')
    made = run([program("age-keygen"), "-o", str(folder / "dev/identity.age")], folder, desk.env)
    (reader,) = [line.split()[-1] for line in made.err.splitlines() if "age1" in line]
    mine = (desk.home / ".ssh/id_ed25519.pub").read_text().strip()
    for line in (mine, reader):
        desk.gitrel("trust", "add-reader", line, "--yes")
    desk.gitrel("config", "set", "COLOUR=green", "EXPONENT=1e3", "ANSWER=no", "TEXT=ä\nb\u2028")
    desk.gitrel("config", "set", "--secret", f"TOKEN={SECRET}")
    assert dev.release() == "v1"
    dev.allow_filter()
    return dev


def export(dev: Shop, *args: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(dev.desk.gitrel("export", "kubernetes", "--image", IMAGE, *args).out))


class _Discovery(http.server.BaseHTTPRequestHandler):
    """All that a client-side dry run asks a cluster for: which kinds there are (kubernetes.io, API discovery)."""

    KINDS: ClassVar = {
        "v1": ["ConfigMap", "Secret", "Service"],
        "apps/v1": ["Deployment"],
        "batch/v1": ["Job"],
        "external-secrets.io/v1": ["ExternalSecret"],
    }

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/")
        version = path.partition("/")[2]
        if path == "api":
            self._answer({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            versions = [{"groupVersion": name, "version": "v1"} for name in self.KINDS if "/" in name]
            groups = [{"name": each["groupVersion"].partition("/")[0], "versions": [each]} for each in versions]
            self._answer({"kind": "APIGroupList", "groups": groups})
        elif version in self.KINDS:
            kinds = [
                {"name": f"{kind.lower()}s", "kind": kind, "namespaced": True, "verbs": ["create"]}
                for kind in self.KINDS[version]
            ]
            self._answer({"kind": "APIResourceList", "groupVersion": version, "resources": kinds})
        else:
            self.send_error(404)

    def _answer(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cluster() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Discovery) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _documents(text: str) -> list[dict[str, Any]]:
    """JSON documents one after the other, as kubectl prints them."""
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def test_kubectl_takes_it(dev: Shop, cluster: str, tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    export(dev, "v1", "--secrets", "plain", "-o", str(file))
    assert file.stat().st_mode & 0o777 == 0o600
    dry = [
        program("kubectl"),
        "--server",
        cluster,
        "--cache-dir",
        str(tmp_path / "cache"),
        "create",
        "--dry-run=client",
    ]
    done = run([*dry, "--validate=false", "-o", "json", "-f", str(file)], tmp_path, dev.desk.env)
    assert done.code == 0, done.err
    ours = list(yaml.safe_load_all(file.read_text()))
    theirs = _documents(done.out)
    for document in theirs:
        document["metadata"].pop("namespace", None)
    assert theirs == ours
    (web,) = [each["spec"]["template"]["spec"] for each in theirs if each["kind"] == "Deployment"]
    assert web["containers"][0]["command"] == ["/bin/sh", "-c", f"exec {PYTHON} app.py"], "a shell passes no signal on"
    data = {each["kind"]: each["data"] for each in theirs if "data" in each}
    assert data["ConfigMap"] == {"COLOUR": "green", "EXPONENT": "1e3", "ANSWER": "no", "TEXT": "ä\nb\u2028"}
    folder = tmp_path / "objects"
    export(dev, "v1", "--secrets", "plain", "-o", str(folder))
    assert sorted(each.name for each in folder.iterdir()) == ["00-config.yaml", "10-release.yaml", "20-shop-web.yaml"]
    assert [each for path in sorted(folder.iterdir()) for each in yaml.safe_load_all(path.read_text())] == ours


def test_secrets_stay_where_they_are_unless_one_insists(dev: Shop) -> None:
    for args in ((), ("--pull", "--url", "https://me:secret@example.com/shop.git")):
        done = dev.desk.gitrel("export", "kubernetes", "--image", IMAGE, *args)
        assert SECRET not in done.out
        assert "me:secret" not in done.out + done.err
        assert "IN THE CLEAR" not in done.err
    done = dev.desk.gitrel("export", "kubernetes", "--image", "shop:v1", "--secrets", "plain")
    assert "WARNING: this has SECRETS IN THE CLEAR, for anyone who reads it: TOKEN" in done.err
    assert "who may push to shop:v1 decides what is in it" in done.err
    plain = ["export", "kubernetes", "--image", IMAGE, "--secrets", "plain", "--trust", dev.pin]
    denied = dev.desk.gitrel(*plain, code=17, env={"HOME": str(dev.desk.path)})
    assert denied.message["what"] == "no key here reads TOKEN"


def test_the_same_release_is_the_same_text_and_the_next_one_differs_by_what_changed(dev: Shop) -> None:
    first = dev.desk.gitrel("export", "kubernetes", "v1", "--image", IMAGE).out
    dev.desk.gitrel("config", "set", "COLOUR=blue")
    dev.publish("release")
    assert dev.desk.gitrel("export", "kubernetes", "v1", "--image", IMAGE).out == first
    before, after = _lines(list(yaml.safe_load_all(first))), _lines(export(dev, "v2"))
    assert {line for line in after - before if "/env/" not in line and "version" not in line} == {
        "ConfigMap/shop-config/data/COLOUR='blue'",
        *(line for line in after if "gitrel.config=" in line or "gitrel.release=" in line),
    }
    assert {line for line in after - before if "/env/" in line} == {
        line for line in after if line.endswith("='v2'") and "/env/" in line
    }, "GITREL_RELEASE, and nothing else"


def _lines(objects: list[dict[str, Any]]) -> set[str]:
    found: set[str] = set()

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict | list):
            for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
                walk(inner, f"{path}/{key}")
        else:
            found.add(f"{path}={value!r}")

    for each in objects:
        if each["kind"] != "Job":  # one for each release
            walk({**each, "metadata": {**each["metadata"], "name": ""}}, f"{each['kind']}/{each['metadata']['name']}")
    return found


@pytest.fixture
def machine(tmp_path: Path) -> dict[str, str]:
    """The environment in a container that has gitrel, or on a client of Nomad."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gitrel").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m gitrel "$@"\n')
    (folder / "gitrel").chmod(0o755)
    own = tmp_path / "own"
    own.mkdir()
    return {**sealed(own), "PYTHONPATH": str(ROOT), "PATH": f"{folder}:{os.environ['PATH']}"}


@contextlib.contextmanager
def serving(command: list[str], cwd: Path, env: dict[str, str]) -> Iterator[None]:
    with subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE) as app:
        try:
            assert app.stdout is not None
            assert app.stdout.readline() == b"ready\n"
            yield
        finally:
            app.terminate()


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as response:
        return bytes(response.read()).decode()


def test_the_commands_of_a_pod_that_pulls(dev: Shop, machine: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    found = export(dev, "v1", "--pull", "--port", str(port))
    dev.release()
    (job,) = [each for each in found if each["kind"] == "Job"]
    (web,) = [each for each in found if each["kind"] == "Deployment"]
    places = {"/srv/shop": tmp_path / "srv/shop", "/etc/gitrel/identity": dev.desk.path.parent}
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv").chmod(0o2777)  # as the kubelet makes a volume for fsGroup

    def here(container: dict[str, Any]) -> list[str]:
        words = [str(word).replace("$$", "$") for word in container["command"]]
        for path, place in places.items():
            words = [word.replace(path, str(place)) for word in words]
        return words

    pod = web["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["initContainers"]):  # a kubelet may start them again
        done = run(here(container), tmp_path, machine)
        assert done.code == 0, done.err
    done = run(here(job["spec"]["template"]["spec"]["containers"][0]), tmp_path, machine)
    assert (done.code, done.out) == (0, "migrated\n")
    with serving(here(pod["containers"][0]), tmp_path, machine):
        assert page(port) == f"v1 green {SECRET}", "the one that was exported, not the newest"


def test_the_commands_of_a_nomad_job(dev: Shop, machine: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    args = ["--driver", "raw_exec", "--identity", str(dev.desk.path.parent / "identity.age"), "--port", str(port)]
    (group,) = json.loads(dev.desk.gitrel("export", "nomad", "v1", *args).out)["Job"]["TaskGroups"]
    before, task = group["Tasks"]

    def here(config: dict[str, Any]) -> list[str]:
        words = [config["command"], *config["args"]]
        return [word.replace("${NOMAD_ALLOC_DIR}", str(tmp_path)).replace("$${", "${") for word in words]

    done = run(here(before["Config"]), tmp_path, machine)
    assert done.code == 0, done.err
    with serving(here(task["Config"]), tmp_path, machine):
        assert page(port) == f"v1 green {SECRET}"
