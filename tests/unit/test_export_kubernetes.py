"""What the objects say, and that Kubernetes' own schemas know every word of them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitrel.cli.commands.export import app
from gitrel.errors import BadInput, UsageError
from gitrel.export.kubernetes import Choices, Object, literal, objects
from gitrel.export.workload import InImage, Pulled, Workload
from gitrel.format.manifest import parse_manifest
from gitrel.ids import App, Deploy, Entry, Sha256

DOCS = Path(__file__).parents[2] / "docs"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
MANIFEST = b"""\
app = "shop"
[run]
writable = ["tmp", "var/cache"]
[run.web]
health = { path = "/healthz", timeout = "90s" }
listen = "0.0.0.0:8000"
scale = 2
stop_timeout = "7500ms"
[run.web.env]
KIND = "app$(X)"
COLOUR = "red"
TOKEN = "none"
[run.api]
health = { port = true }
[run.said]
health = { notify = true }
scale = 0
[run.release]
timeout = "90s"
"""
WORK = Workload(
    app=App("shop"),
    deploy=Deploy("production"),
    entry=Entry(7),
    name="shop",
    facts={"gitrel.release": f"{'a' * 40} {'b' * 64}", "gitrel.signers": "alice, bob"},
    told={"GITREL_RELEASE": "v7", "GITREL_SOURCE": "c" * 40},
    commands={"web": "exec app $(nproc) $PORT", "api": "api", "mail_Out": "mail", "said": "said", "release": "migrate"},
    manifest=parse_manifest(MANIFEST),
    config={"COLOUR": b"green", "N": b"1e3", "TOKEN.age": b"encrypted"},
    base_port=6000,
)
IMAGE = InImage(image="registry.example.com/shop:v7", base_env={"HOME": "/tmp", "N": "0"})
PULLED = Pulled(image="registry.example.com/gitrel:1", url="git@example.com:shop.git", pin=Sha256("d" * 64))
PLAIN = Choices(user=(7, 8))
OTHERS = replace(PLAIN, secrets={"TOKEN": "geheim"}, git_key="deploy-key", store="vault")


def flat(work: Workload = WORK, source: InImage | Pulled = IMAGE, choices: Choices = PLAIN) -> dict[str, Object]:
    """The objects, by kind and name."""
    found = [each for file in objects(work, source, choices).values() for each in file]
    named = {f"{each['kind']}/{each['metadata']['name']}": each for each in found}
    assert len(named) == len(found)
    return named


def container(found: dict[str, Object], name: str) -> Any:
    (only,) = found[name]["spec"]["template"]["spec"]["containers"]
    return only


def variables(of: Any) -> dict[str, str]:
    return {each["name"]: each["value"] for each in of["env"]}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{at}]")
    else:
        yield path, value


def changes(before: dict[str, Object], after: dict[str, Object]) -> set[str]:
    old, new = dict(leaves(before)), dict(leaves(after))
    return {path for path in old.keys() | new.keys() if old.get(path) != new.get(path)}


@pytest.mark.parametrize("source", [IMAGE, PULLED], ids=["image", "pulled"])
@pytest.mark.parametrize("choices", [PLAIN, OTHERS], ids=["defaults", "others"])
def test_kubernetes_knows_every_word(source: InImage | Pulled, choices: Choices) -> None:
    found = flat(source=source, choices=choices)
    assert list(found.items()) == list(flat(replace(WORK), source, choices).items())
    ours = [each for each in found.values() if each["kind"] != "ExternalSecret"]  # not of Kubernetes itself
    assert len(ours) >= 7
    for each in ours:
        for version in VERSIONS:
            kubernetes_validate.validate(each, version, strict=True)


def test_the_schemas_are_strict() -> None:
    bad = flat()["Deployment/shop-web"]
    bad["spec"]["template"]["spec"]["containers"][0]["gitrel"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(bad, VERSIONS[-1], strict=True)


DEPLOYMENTS = ["Deployment/shop-api", "Deployment/shop-mail-out", "Deployment/shop-said", "Deployment/shop-web"]
SERVICES = ["Service/shop-api", "Service/shop-web"]


def test_what_there_is() -> None:
    both = [*DEPLOYMENTS, "Job/shop-release-v7", *SERVICES]
    assert sorted(flat()) == ["ConfigMap/shop-config", *DEPLOYMENTS, "ExternalSecret/shop-secrets", *both[4:]]
    assert sorted(flat(choices=OTHERS)) == ["ConfigMap/shop-config", *both[:5], "Secret/shop-secrets", *SERVICES]
    assert sorted(flat(source=PULLED)) == both, "config and secrets are the ledger's"
    files = [*objects(WORK, IMAGE, PLAIN)]
    assert files[:2] == ["00-config", "10-release"], "kubectl takes a folder's files by name"
    assert {*files[2:]} == {f"20-{name.partition('/')[2]}" for name in DEPLOYMENTS}


def test_a_changed_variable_changes_what_uses_it_and_nothing_else() -> None:
    roll = {f"/{name}/spec/template/metadata/annotations/gitrel." for name in (*DEPLOYMENTS, "Job/shop-release-v7")}
    other = replace(WORK, config={**WORK.config, "N": b"2"})
    assert changes(flat(), flat(other)) == {"/ConfigMap/shop-config/data/N", *(f"{path}config" for path in roll)}
    secret = replace(WORK, config={**WORK.config, "TOKEN.age": b"anew"})
    assert changes(flat(), flat(secret)) == {f"{path}secrets" for path in roll}
    assert changes(flat(source=PULLED), flat(other, PULLED)) == set(), "the release says it, and the ledger has it"


def test_the_next_release_changes_what_names_it() -> None:
    following = replace(WORK, entry=Entry(8), told={**WORK.told, "GITREL_RELEASE": "v8"})
    before, after = flat(), flat(following)
    assert after.keys() ^ before.keys() == {"Job/shop-release-v7", "Job/shop-release-v8"}, "a Job cannot be changed"
    assert changes(before["Deployment/shop-web"], after["Deployment/shop-web"]) == {
        "/metadata/labels/app.kubernetes.io/version",
        "/spec/template/metadata/labels/app.kubernetes.io/version",
        "/spec/template/spec/containers[0]/env[3]/value",
    }
    now = changes(flat(source=PULLED), flat(following, PULLED))
    assert {path for path in now if "command" in path} == {
        f"/{name}/spec/template/spec/initContainers[1]/command[2]" for name in DEPLOYMENTS
    } | {path for path in now if path.startswith("/Job/") and "command" in path}


def test_what_serves() -> None:
    found = flat()
    web, api = container(found, "Deployment/shop-web"), container(found, "Deployment/shop-api")
    ask = {"httpGet": {"path": "/healthz", "port": "http"}, "timeoutSeconds": 5}
    assert web["ports"] == [{"name": "http", "containerPort": 8000, "protocol": "TCP"}]
    assert web["startupProbe"] == {**ask, "periodSeconds": 1, "failureThreshold": 90}
    assert web["readinessProbe"] == {**ask, "periodSeconds": 5}
    assert list(web["livenessProbe"]) == ["tcpSocket", "timeoutSeconds", "periodSeconds"]
    assert api["ports"] == [{"name": "tcp", "containerPort": 6100, "protocol": "TCP"}]
    assert api["readinessProbe"]["tcpSocket"] == {"port": "tcp"}
    assert found["Service/shop-web"]["spec"]["ports"][0]["port"] == 80
    plain = {"name": "tcp", "port": 6100, "targetPort": "tcp", "protocol": "TCP"}
    assert found["Service/shop-api"]["spec"]["ports"] == [plain]
    for kind in ("web", "api"):
        pods = found[f"Deployment/shop-{kind}"]["spec"]["template"]["metadata"]["labels"]
        assert found[f"Service/shop-{kind}"]["spec"]["selector"].items() <= pods.items()
    spec = found["Deployment/shop-web"]["spec"]
    assert (spec["replicas"], spec["strategy"]["type"], spec["progressDeadlineSeconds"]) == (2, "RollingUpdate", 690)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 8 + 5


def test_what_does_not() -> None:
    found = flat()
    for kind, replicas in (("mail-out", 1), ("said", 0)):
        spec = found[f"Deployment/shop-{kind}"]["spec"]
        assert (spec["strategy"], spec["replicas"]) == ({"type": "Recreate"}, replicas), "never two at a time"
        assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 10
        assert not {"ports", "readinessProbe", "lifecycle"} & container(found, f"Deployment/shop-{kind}").keys()
    assert found["Deployment/shop-mail-out"]["spec"]["minReadySeconds"] == 2, "settle"
    job = found["Job/shop-release-v7"]["spec"]
    assert (job["backoffLimit"], job["activeDeadlineSeconds"]) == (0, 90)


@pytest.mark.parametrize("source", [IMAGE, PULLED], ids=["image", "pulled"])
def test_what_a_pod_may_do(source: InImage | Pulled) -> None:
    specs = [each.get("spec", {}) for each in flat(source=source).values()]
    pods = [spec["template"]["spec"] for spec in specs if "template" in spec]
    assert len(pods) == 5
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        volumes = {each["name"] for each in pod["volumes"]}
        for each in [*pod["containers"], *pod.get("initContainers", [])]:
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            }
            assert {mount["name"] for mount in each["volumeMounts"]} <= volumes
            assert "resources" not in each


def test_the_environment_in_an_image() -> None:
    web = container(flat(), "Deployment/shop-web")
    assert web["command"] == ["/bin/sh", "-c", "exec app $$(nproc) $$PORT"]
    assert variables(web) == {
        "HOME": "/tmp",
        "KIND": "app$$(X)",
        "PORT": "6000",
        "GITREL_RELEASE": "v7",
        "GITREL_SOURCE": "c" * 40,
        "GITREL_PROCESS": "web",
    }, "the config wins over the build's variables and the base's, and comes by reference"
    assert web["envFrom"] == [{"configMapRef": {"name": "shop-config"}}, {"secretRef": {"name": "shop-secrets"}}]
    assert flat()["ConfigMap/shop-config"]["data"] == {"COLOUR": "green", "N": "1e3"}
    assert [mount["mountPath"] for mount in web["volumeMounts"]] == ["/tmp", "/shared/tmp", "/shared/var/cache"]
    bare = flat(replace(WORK, config={}))
    assert "envFrom" not in container(bare, "Deployment/shop-web")
    assert not [name for name in bare if name.startswith(("ConfigMap", "ExternalSecret"))]


def test_secrets() -> None:
    assert flat(choices=replace(PLAIN, store="vault"))["ExternalSecret/shop-secrets"]["spec"] == {
        "secretStoreRef": {"kind": "SecretStore", "name": "vault"},
        "target": {"name": "shop-secrets"},
        "data": [{"secretKey": "TOKEN", "remoteRef": {"key": "shop/production", "property": "TOKEN"}}],
    }
    assert flat(choices=OTHERS)["Secret/shop-secrets"]["data"] == {"TOKEN": "Z2VoZWlt"}
    for found in (flat(), flat(source=PULLED)):
        assert "encrypted" not in str(found)
        assert "geheim" not in str(found)


def test_pods_that_pull() -> None:
    pod = flat(source=PULLED, choices=OTHERS)["Deployment/shop-web"]["spec"]["template"]["spec"]
    join, pin = pod["initContainers"]
    identity = "/etc/gitrel/identity/identity.age"
    named = ["git@example.com:shop.git", "/srv/shop", "--trust", "d" * 64, "--deploy", "production"]
    assert join["command"] == ["gitrel", "join", *named, "--identity", identity]
    assert pin["command"] == ["gitrel", "pin", "v7", "--home", "/srv/shop"]
    assert variables(join)["GIT_SSH_COMMAND"].startswith("ssh -F none -i /etc/gitrel/git/ssh-privatekey ")
    (web,) = pod["containers"]
    assert web["command"] == ["gitrel", "exec", "web", "--home", "/srv/shop", "--port", "6000"]
    assert [mount["name"] for mount in join["volumeMounts"]] == ["tmp", "homes", "identity", "git"]
    assert [mount["name"] for mount in web["volumeMounts"]] == ["tmp", "homes", "identity"], "the key is not the app's"
    without = flat(replace(WORK, config={}), PULLED)["Deployment/shop-web"]["spec"]["template"]["spec"]
    assert "--identity" not in without["initContainers"][0]["command"]
    assert [each["name"] for each in without["volumes"]] == ["tmp", "homes"]


def test_what_is_refused() -> None:
    deaf = replace(WORK, manifest=parse_manifest(MANIFEST.replace(b"0.0.0.0", b"127.0.0.1")))
    with pytest.raises(BadInput, match=r"web listens on 127\.0\.0\.1"):
        flat(deaf, PULLED)
    assert flat(deaf), "in an image nobody binds it"
    with pytest.raises(UsageError, match="would have the same name"):
        flat(replace(WORK, commands={"a_b": "x", "A-b": "y"}))
    for name in ("7up", "x" * 60, "a.b"):
        with pytest.raises(UsageError, match="not a name that an engine takes"):
            flat(replace(WORK, name=name))


def test_what_is_said() -> None:
    said = replace(WORK, manifest=parse_manifest(MANIFEST.replace(b"[run]", b'[run]\nrequired_env = ["DB"]', 1)))
    remarks = "\n".join(said.remarks(in_image=True))
    for part in ("no CPU or memory", "said says itself", "bind port 8000", "tmp, var/cache", "does not have: DB"):
        assert part in remarks
    assert "bind port" not in "\n".join(said.remarks(in_image=False))


@pytest.mark.parametrize(("command", "page"), [("kubernetes", "kubernetes.md"), ("nomad", "scaling.md")])
def test_the_manual_has_every_option(command: str, page: str) -> None:
    (found,) = [each for each in app.registered_commands if each.callback and each.callback.__name__ == command]
    general = {"entry", "deploy", "repo", "remote", "trust", "json", "output"}
    options = {name.replace("_", "-") for name in inspect.signature(found.callback or int).parameters} - general
    manual = (DOCS / page).read_text()
    assert len(options) > 6
    assert {name for name in options if f"--{name}" not in manual} == set()


def expanded(text: str) -> str:
    """What Kubernetes makes of a command's word where no variable is defined (k8s.io/kubernetes,
    third_party/forked/golang/expansion)."""
    return re.sub(r"\$\$|\$\([^)]*\)", lambda match: "$" if match[0] == "$$" else "REPLACED", text)


@given(st.text("$()a{} ", max_size=20))
def test_what_a_shell_is_to_see_is_what_it_sees(line: str) -> None:
    assert expanded(literal(line)) == line
