"""A release as Kubernetes objects (docs/kubernetes.md): the same release and choices, the same objects.

Names say nothing of the release, so a server-side apply updates what is there; only a Job cannot be changed, and has
the release's number in its name. Fields are of Kubernetes 1.30 and later.
"""

from __future__ import annotations

import base64
import math
import shlex
from collections.abc import Mapping
from typing import Any

from gitrel.dataclass import dataclass, field
from gitrel.export.image import APP
from gitrel.export.workload import ATTEMPT, InImage, Pulled, Workload
from gitrel.format.manifest import RELEASE_PHASE

Object = dict[str, Any]

DRAIN = 5  # seconds for which a pod goes on serving after it was told to end: load balancers hear of it meanwhile
IDENTITY_FILE = "identity.age"
_HOMES, _IDENTITY, _GIT = "/srv", "/etc/gitrel/identity", "/etc/gitrel/git"
_SSH = (
    *("ssh", "-F", "none", "-i", f"{_GIT}/ssh-privatekey", "-o", "IdentitiesOnly=yes"),
    *("-o", f"UserKnownHostsFile={_GIT}/known_hosts", "-o", "StrictHostKeyChecking=yes"),
)
_TMP = "/tmp"  # noqa: S108 - the container's own


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the release does not say.

    `user`: uid and gid. `secrets`: the values, for a Secret in the clear. `store`: the SecretStore that an
    ExternalSecret reads them from. `git_key`: a Secret with an SSH key for the remote.
    """

    user: tuple[int, int]
    secrets: Mapping[str, str] | None = field(default=None, repr=False)
    store: str | None = None
    git_key: str | None = None


def objects(work: Workload, source: InImage | Pulled, choices: Choices) -> dict[str, list[Object]]:
    """Names of files, in the order in which they are applied, and the objects in them. Raises `UsageError`,
    `BadInput`.
    """
    if isinstance(source, Pulled):
        work.check_reachable()
    made = _Objects(work, source, choices)
    labels = work.labels()
    files = {"00-config": made.config(), "10-release": made.release_phase()}
    for kind in work.kinds:
        served = [made.service(kind, labels[kind])] if work.serves(kind) else []
        files[f"20-{labels[kind]}"] = [made.deployment(kind, labels[kind]), *served]
    return {name: found for name, found in files.items() if found}


def literal(text: str) -> str:
    """Kubernetes replaces `$(NAME)` in commands and variables, and makes `$$` one `$`."""
    return text.replace("$", "$$")


class _Objects:
    """The objects of one workload."""

    def __init__(self, work: Workload, source: InImage | Pulled, choices: Choices) -> None:
        self.work, self.source, self.choices = work, source, choices
        self.base = work.label()
        self.config_name, self.secret_name = work.label("config"), work.label("secrets")
        self.sealed = isinstance(source, Pulled) and bool(work.secrets)
        self.home = f"{_HOMES}/{self.base}"
        self.about = {**work.facts, "gitrel.source": work.told["GITREL_SOURCE"]}

    def labels(self, component: str) -> dict[str, str]:
        """What an object is found by for ever."""
        return {
            "app.kubernetes.io/name": self.work.app.rstrip("-"),
            "app.kubernetes.io/instance": self.base,
            "app.kubernetes.io/component": component,
        }

    def object(self, version: str, kind: str, name: str, component: str, **rest: Any) -> Object:
        labels = {
            **self.labels(component),
            "app.kubernetes.io/version": str(self.work.entry),
            "app.kubernetes.io/managed-by": "gitrel",
        }
        metadata = {"name": name, "labels": labels, "annotations": self.about}
        return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

    def config(self) -> list[Object]:
        """A ConfigMap, and what secrets come from. Pods that pull have all of it in the ledger."""
        found: list[Object] = []
        if isinstance(self.source, Pulled):
            return found
        if self.work.plain:
            found.append(self.object("v1", "ConfigMap", self.config_name, "config", data=self.work.plain))
        if self.choices.secrets is not None:
            # not stringData: a server-side apply does not take out of a Secret what is left out there
            data = {name: base64.b64encode(text.encode()).decode() for name, text in self.choices.secrets.items()}
            found.append(self.object("v1", "Secret", self.secret_name, "config", type="Opaque", data=data))
        elif self.work.secrets:
            found.append(self._external())
        return found

    def _external(self) -> Object:
        """https://external-secrets.io/latest/api/externalsecret/"""
        key = f"{self.work.app}/{self.work.deploy}"
        spec = {
            "secretStoreRef": {"kind": "SecretStore", "name": self.choices.store or self.work.app},
            "target": {"name": self.secret_name},
            "data": [{"secretKey": name, "remoteRef": {"key": key, "property": name}} for name in self.work.secrets],
        }
        return self.object("external-secrets.io/v1", "ExternalSecret", self.secret_name, "config", spec=spec)

    def release_phase(self) -> list[Object]:
        """A failed one is not tried again, as under `gitrel run`."""
        if RELEASE_PHASE not in self.work.commands:
            return []
        spec = {
            "backoffLimit": 0,
            "activeDeadlineSeconds": _whole(self.work.spec(RELEASE_PHASE).timeout),
            "template": self._template(RELEASE_PHASE, RELEASE_PHASE, restartPolicy="Never"),
        }
        name = self.work.label(RELEASE_PHASE, str(self.work.entry))
        return [self.object("batch/v1", "Job", name, RELEASE_PHASE, spec=spec)]

    def deployment(self, kind: str, name: str) -> Object:
        """What is reached is replaced while its predecessor serves; of anything else there are never two at a time."""
        spec = self.work.spec(kind)
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        patience = spec.health.timeout if spec.health is not None else spec.settle
        component = self._component(name)
        content = {
            "replicas": spec.scale,
            "strategy": rolling if self.work.serves(kind) else {"type": "Recreate"},
            "minReadySeconds": 0 if spec.health is not None else _whole(spec.settle),
            "progressDeadlineSeconds": 600 + _whole(patience),
            "selector": {"matchLabels": self.labels(component)},
            "template": self._template(kind, component),
        }
        return self.object("apps/v1", "Deployment", name, component, spec=content)

    def service(self, kind: str, name: str) -> Object:
        label = self._port_name(kind)
        port = {"name": label, "port": 80 if self.work.speaks_http(kind) else self.work.port(kind), "targetPort": label}
        component = self._component(name)
        spec = {"selector": self.labels(component), "ports": [{**port, "protocol": "TCP"}]}
        return self.object("v1", "Service", name, component, spec=spec)

    def _component(self, name: str) -> str:
        return name.removeprefix(f"{self.base}-")

    def _port_name(self, kind: str) -> str:
        return "http" if self.work.speaks_http(kind) else "tcp"

    def _template(self, kind: str, component: str, **rest: Any) -> Object:
        """The pod. Its annotations change with the release, and with what of the config it gets from elsewhere."""
        about = dict(self.about)
        if isinstance(self.source, InImage):
            about |= {"gitrel.config": self.work.fingerprint(secret=False)} if self.work.plain else {}
            about |= {"gitrel.secrets": self.work.fingerprint(secret=True)} if self.work.secrets else {}
        uid, gid = self.choices.user
        stop = _whole(self.work.spec(kind).stop_timeout) + (DRAIN if self.work.serves(kind) else 0)
        spec = {
            **({"initContainers": self._checkout(self.source)} if isinstance(self.source, Pulled) else {}),
            "containers": [self._container(kind, component)],
            "volumes": self._volumes(),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": uid,
                "runAsGroup": gid,
                "fsGroup": gid,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,  # other services' addresses are no part of a release's environment
            "terminationGracePeriodSeconds": stop,
            **rest,
        }
        labels = {**self.labels(component), "app.kubernetes.io/version": str(self.work.entry)}
        return {"metadata": {"labels": labels, "annotations": about}, "spec": spec}

    def _container(self, kind: str, component: str) -> Object:
        source = self.source
        if isinstance(source, InImage):
            command, folder = ["/bin/sh", "-c", self.work.commands[kind]], {"workingDir": f"/{APP}"}
            settings = {"envFrom": self._references(), **_variables(self.work.environment(kind, source.base_env))}
        else:
            command, folder, settings = source.become(self.work, kind, self.home), {}, _variables({"HOME": _TMP})
        return {
            **self._contained(component, command),
            **folder,
            **{name: found for name, found in settings.items() if found},
            **self._reached(kind),
            "volumeMounts": self._mounts(),
        }

    def _contained(self, name: str, command: list[str]) -> Object:
        """The image, and what a process in it may do."""
        return {
            "name": name,
            "image": self.source.image,
            "command": [literal(word) for word in command],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            },
        }

    def _checkout(self, source: Pulled) -> list[Object]:
        identity = f"{_IDENTITY}/{IDENTITY_FILE}" if self.sealed else None
        env = {"HOME": _TMP, **({"GIT_SSH_COMMAND": shlex.join(_SSH)} if self.choices.git_key else {})}
        mounts = self._mounts()
        if self.choices.git_key:
            mounts.append({"name": "git", "mountPath": _GIT, "readOnly": True})
        commands = source.checkout(self.work, self.home, identity)
        return [
            {**self._contained(f"gitrel-{command[1]}", command), **_variables(env), "volumeMounts": mounts}
            for command in commands
        ]

    def _references(self) -> list[Object]:
        found = [{"configMapRef": {"name": self.config_name}}] if self.work.plain else []
        return found + ([{"secretRef": {"name": self.secret_name}}] if self.work.secrets else [])

    def _volumes(self) -> list[Object]:
        found: list[Object] = [{"name": name, "emptyDir": {}} for name in ("tmp", *self._writable())]
        if self.sealed:
            found.append(
                {"name": "identity", "secret": {"secretName": self.work.label("identity"), "defaultMode": 0o440}}
            )
        if isinstance(self.source, Pulled) and self.choices.git_key:
            found.append({"name": "git", "secret": {"secretName": self.choices.git_key, "defaultMode": 0o440}})
        return found

    def _mounts(self) -> list[Object]:
        places = {"tmp": _TMP, **self._writable()}
        found: list[Object] = [{"name": name, "mountPath": path} for name, path in places.items()]
        if self.sealed:
            found.append({"name": "identity", "mountPath": _IDENTITY, "readOnly": True})
        return found

    def _writable(self) -> dict[str, str]:
        """Volumes by name, and where they are: the homes, or what an image's links to writable folders name."""
        if isinstance(self.source, Pulled):
            return {"homes": _HOMES}
        folders = enumerate(self.work.manifest.writable, 1)
        return {f"shared-{number}": f"/shared/{path}" for number, path in folders}

    def _reached(self, kind: str) -> Object:
        """Port, probes, and time for load balancers to look elsewhere. A process that takes connections is alive:
        were it killed for a bad answer, a database that is away would have all pods killed.
        """
        if not self.work.serves(kind):
            return {}
        name = self._port_name(kind)
        port = {"ports": [{"name": name, "containerPort": self.work.port(kind), "protocol": "TCP"}]}
        drain = {"lifecycle": {"preStop": {"sleep": {"seconds": DRAIN}}}}
        health = self.work.spec(kind).health
        if health is None or health.notify:
            return {**port, **drain}
        connect = {"tcpSocket": {"port": name}, "timeoutSeconds": ATTEMPT}
        ask = {"httpGet": {"path": health.path, "port": name}, "timeoutSeconds": ATTEMPT} if health.path else connect
        return {
            **port,
            "startupProbe": {**ask, "periodSeconds": 1, "failureThreshold": _whole(health.timeout)},
            "readinessProbe": {**ask, "periodSeconds": ATTEMPT},
            "livenessProbe": {**connect, "periodSeconds": 10},
            **drain,
        }


def _variables(env: Mapping[str, str]) -> Object:
    return {"env": [{"name": name, "value": literal(value)} for name, value in env.items()]}


def _whole(seconds: float) -> int:
    """Kubernetes knows no parts of a second, and often no zero."""
    return max(1, math.ceil(seconds))
