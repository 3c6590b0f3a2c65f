"""What the job says; its words are those that Nomad documents."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_export_kubernetes import IMAGE, MANIFEST, PULLED, WORK

from gitrel.cli.console import Console
from gitrel.cli.export_engines import Asked, kubernetes
from gitrel.errors import BadInput, UsageError
from gitrel.export.nomad import Choices, job, literal
from gitrel.export.workload import InImage, Pulled
from gitrel.format.manifest import parse_manifest

EXEC = Choices(driver="exec", user="shop", identity="/etc/shop/identity.age")

# https://developer.hashicorp.com/nomad/api-docs/json-jobs: those that a job of ours has a use for. None: anything.
_TASK = {
    **dict.fromkeys(["Name", "Driver", "User", "KillSignal", "KillTimeout"]),
    "Lifecycle": {"Hook": None, "Sidecar": None},
    "Config": None,
    "Env": None,
    "Templates": dict.fromkeys(["EmbeddedTmpl", "DestPath", "Envvars"]),
}
_GROUP = {
    **dict.fromkeys(["Name", "Count"]),
    "Update": dict.fromkeys(
        ["MaxParallel", "HealthCheck", "MinHealthyTime", "HealthyDeadline", "ProgressDeadline", "AutoRevert"]
    ),
    "RestartPolicy": {"Attempts": None, "Mode": None},
    "ReschedulePolicy": {"Attempts": None, "Unlimited": None},
    "Networks": {"Mode": None, "DynamicPorts": {"Label": None, "To": None}},
    "Services": {
        **dict.fromkeys(["Name", "Provider", "PortLabel"]),
        "Checks": dict.fromkeys(["Name", "Type", "Path", "Interval", "Timeout"]),
    },
    "Tasks": _TASK,
}
DOCUMENT = {"Job": {**dict.fromkeys(["ID", "Name", "Type", "Datacenters", "Meta"]), "TaskGroups": _GROUP}}
SECOND = 10**9


def check(value: Any, known: Any) -> None:
    if isinstance(value, list):
        for each in value:
            check(each, known)
    elif isinstance(known, dict):
        assert value.keys() <= known.keys()
        for key, inner in value.items():
            check(inner, known[key])


def groups(source: InImage | Pulled = PULLED, choices: Choices = EXEC, **of_work: Any) -> dict[str, Any]:
    document = job(replace(WORK, **of_work), source, choices, release_phase=False)
    return {each["Name"]: each for each in document["Job"]["TaskGroups"]}


@pytest.mark.parametrize("source", [IMAGE, PULLED], ids=["image", "pulled"])
@pytest.mark.parametrize("release_phase", [False, True], ids=["service", "batch"])
def test_nomad_knows_every_word(source: InImage | Pulled, release_phase: bool) -> None:
    document = job(WORK, source, EXEC, release_phase=release_phase)
    check(document, DOCUMENT)
    assert json.dumps(document) == json.dumps(job(replace(WORK), source, EXEC, release_phase=release_phase))
    about = document["Job"]
    assert (about["Type"], about["ID"]) == (("batch", "shop-release") if release_phase else ("service", "shop"))
    assert about["Meta"]["gitrel_version"] == "v7"
    assert all(re.fullmatch(r"[a-z_]+", key) for key in about["Meta"])


def test_what_serves() -> None:
    web, mail = groups()["web"], groups()["mail_Out"]
    assert web["Networks"] == [{"Mode": "bridge", "DynamicPorts": [{"Label": "app", "To": 8000}]}]
    (service,) = web["Services"]
    assert (service["Name"], service["Provider"]) == ("shop-web", "nomad")
    assert [(each["Type"], each["Path"]) for each in service["Checks"]] == [("http", "/healthz")]
    assert not {"Networks", "Services"} & mail.keys()
    assert (web["Update"]["HealthCheck"], mail["Update"]["HealthCheck"]) == ("checks", "task_states")
    assert (web["Count"], groups()["said"]["Count"], web["Tasks"][1]["KillTimeout"]) == (2, 0, 75 * SECOND // 10)
    for group in groups().values():
        update = group["Update"]
        assert 0 < update["MinHealthyTime"] < update["HealthyDeadline"] < update["ProgressDeadline"]


def test_clients_that_pull() -> None:
    before, web = groups()["web"]["Tasks"]
    assert before["Lifecycle"] == {"Hook": "prestart", "Sidecar": False}
    home = "'${NOMAD_ALLOC_DIR}/home'"
    script = f"gitrel join git@example.com:shop.git {home} --trust {'d' * 64} --deploy production"
    script += f" --identity /etc/shop/identity.age && gitrel pin v7 --home {home}"
    assert before["Config"] == {"command": "/bin/sh", "args": ["-c", script]}
    assert web["Config"] == {"command": "/bin/sh", "args": ["-c", f"exec gitrel exec web --home {home} --port 6000"]}
    assert (before["Driver"], before["User"], web["User"]) == ("exec", "shop", "shop")
    odd = replace(PULLED, url="https://example.com/${meta.x}'%{a}.git")
    said = groups(odd)["web"]["Tasks"][0]["Config"]["args"][1]
    assert "https://example.com/$${meta.x}" in said
    assert "%%{a}.git" in said
    with pytest.raises(BadInput, match="web listens on"):
        groups(manifest=parse_manifest(MANIFEST.replace(b"0.0.0.0", b"127.0.0.1")))


def test_an_image() -> None:
    (web,) = groups(IMAGE)["web"]["Tasks"]
    assert web["Config"]["args"] == ["-c", "exec app $(nproc) $PORT"]
    assert (web["Driver"], web["Config"]["ports"], web["Config"]["cap_drop"]) == ("docker", ["app"], ["all"])
    assert (web["Env"]["COLOUR"], web["Env"]["PORT"], "TOKEN" in web["Env"]) == ("green", "6000", False)
    (template,) = web["Templates"]
    lines = ['{{ with nomadVar "nomad/jobs/shop" }}', "TOKEN={{ .TOKEN | toJSON }}", "{{ end }}", ""]
    assert template["EmbeddedTmpl"].split("\n") == lines
    with pytest.raises(UsageError, match="ODD has a"):
        groups(IMAGE, config={"ODD": b"${attr.kernel.name}"})
    assert groups(IMAGE, config={"FINE": b"${not:it} $HOME"})["web"]["Tasks"][0]["Env"]["FINE"] == "${not:it} $HOME"


def test_the_release_phase() -> None:
    (group,) = job(WORK, IMAGE, EXEC, release_phase=True)["Job"]["TaskGroups"]
    assert (group["RestartPolicy"]["Attempts"], group["ReschedulePolicy"]["Attempts"], group["Count"]) == (0, 0, 1)
    with pytest.raises(UsageError, match="no release phase"):
        job(replace(WORK, commands={"web": "x"}), IMAGE, EXEC, release_phase=True)


@given(st.text("$%{}a", max_size=12).filter(lambda text: "$$" not in text and "%%" not in text))
def test_no_template_is_left(line: str) -> None:
    written = literal(line)
    assert re.search(r"(?<!\$)\$\{|(?<!%)%\{", written) is None
    assert written.replace("$${", "${").replace("%%{", "%{") == line


@pytest.mark.parametrize(
    ("secrets", "pull", "user"),
    [("sealed", False, "1:1"), ("plain", True, "1:1"), ("external", True, "1:1"), ("none", False, "1:1")]
    + [(None, False, user) for user in ("0:0", "root", "1")],
)
def test_what_is_refused_before_anything_is_read(secrets: str | None, pull: bool, user: str) -> None:
    asked = Asked(entry=None, deploy="p", repo=None, remote=None, trust=None, name=None, port=1, url=None)
    with pytest.raises(UsageError, match="does not go with" if secrets else "numbers"):
        kubernetes(Console(), asked, None, pull, "image", user, secrets, (None, None, None))
