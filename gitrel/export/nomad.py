"""A release as a Nomad job, in the JSON of its HTTP API (docs/scaling.md;
https://developer.hashicorp.com/nomad/api-docs/json-jobs). Times there are nanoseconds.

A group for each process type. Without an image, a task before it fetches, verifies and checks out the release into the
allocation's folder, on a client that has gitrel. The release phase is a batch job of its own.
"""

from __future__ import annotations

import math
import re
import shlex
from typing import Any

from gitrel.dataclass import dataclass
from gitrel.errors import UsageError
from gitrel.export.image import APP
from gitrel.export.workload import ATTEMPT, InImage, Pulled, Workload
from gitrel.format.manifest import RELEASE_PHASE

Part = dict[str, Any]

_SECOND = 1_000_000_000
_HOME = "${NOMAD_ALLOC_DIR}/home"
_REPLACED = re.compile(r"\$\{[a-zA-Z0-9_.-]+\}")  # hashicorp/nomad, helper/args
_MIN_HEALTHY = 10  # seconds, Nomad's own default


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """`user`: whom tasks run as, None for the driver's own. `identity`: the file with which clients read secrets."""

    driver: str
    user: str | None = None
    identity: str | None = None


def job(work: Workload, source: InImage | Pulled, choices: Choices, *, release_phase: bool) -> Part:
    """The document. Raises `UsageError`, `BadInput`."""
    if isinstance(source, Pulled):
        work.check_reachable()
    if release_phase and RELEASE_PHASE not in work.commands:
        raise UsageError("there is no release phase", where="Procfile", why=f"there are {', '.join(work.commands)}")
    name = work.label(RELEASE_PHASE) if release_phase else work.label()
    made = _Job(work, source, choices, name)
    kinds = [RELEASE_PHASE] if release_phase else work.kinds
    about = {**work.facts, "gitrel.version": str(work.entry), "gitrel.source": work.told["GITREL_SOURCE"]}
    found = {
        "ID": name,
        "Name": name,
        "Type": "batch" if release_phase else "service",
        "Datacenters": ["*"],
        "Meta": {key.replace(".", "_"): value for key, value in about.items()},
        "TaskGroups": [made.group(kind) for kind in kinds],
    }
    return {"Job": found}


def literal(text: str) -> str:
    """A driver's settings are templates of HCL 2."""
    return text.replace("${", "$${").replace("%{", "%%{")


class _Job:
    def __init__(self, work: Workload, source: InImage | Pulled, choices: Choices, name: str) -> None:
        self.work, self.source, self.choices, self.name = work, source, choices, name
        self.names = work.labels()

    def group(self, kind: str) -> Part:
        spec = self.work.spec(kind)
        once = kind == RELEASE_PHASE
        found: Part = {"Name": kind, "Count": 1 if once else spec.scale}
        if once:  # a failed one is not tried again, as under `gitrel run`
            found["RestartPolicy"] = {"Attempts": 0, "Mode": "fail"}
            found["ReschedulePolicy"] = {"Attempts": 0, "Unlimited": False}
        else:
            found["Update"] = self._update(kind)
        if self.work.serves(kind):
            found["Networks"] = [{"Mode": "bridge", "DynamicPorts": [{"Label": "app", "To": self.work.port(kind)}]}]
            found["Services"] = [self._service(kind)]
        before = [self._checkout(self.source)] if isinstance(self.source, Pulled) else []
        return {**found, "Tasks": [*before, self._task(kind)]}

    def _update(self, kind: str) -> Part:
        """One after the other, and back to the last good job if it does not become healthy."""
        spec = self.work.spec(kind)
        patience = spec.health.timeout if spec.health is not None else spec.settle
        deadline = _nanos(max(300, patience + 2 * _MIN_HEALTHY))
        return {
            "MaxParallel": 1,
            "HealthCheck": "checks" if self._checks(kind) else "task_states",
            "MinHealthyTime": _nanos(_MIN_HEALTHY if spec.health is not None else max(spec.settle, 1)),
            "HealthyDeadline": deadline,
            "ProgressDeadline": 2 * deadline,
            "AutoRevert": True,
        }

    def _service(self, kind: str) -> Part:
        service = {"Name": self.names[kind], "Provider": "nomad", "PortLabel": "app"}
        return {**service, "Checks": self._checks(kind)}

    def _checks(self, kind: str) -> list[Part]:
        health = self.work.spec(kind).health
        if health is None or health.notify:
            return []
        times = {"Interval": _nanos(ATTEMPT), "Timeout": _nanos(ATTEMPT)}
        way = {"Type": "http", "Path": health.path} if health.path else {"Type": "tcp"}
        return [{"Name": "health", **way, **times}]

    def _task(self, kind: str) -> Part:
        source = self.source
        if isinstance(source, InImage):
            return {**self._in_image(source, kind), **self._stop(kind)}
        script = f"exec {shlex.join(source.become(self.work, kind, _HOME))}"
        return {**self._run(kind, script), **self._stop(kind)}

    def _stop(self, kind: str) -> Part:
        return {"KillSignal": "SIGTERM", "KillTimeout": _nanos(max(self.work.spec(kind).stop_timeout, 1))}

    def _run(self, name: str, script: str) -> Part:
        """By a shell: the driver takes absolute paths alone, and gitrel is where a client has it."""
        task: Part = {"Name": name, "Driver": self.choices.driver}
        if self.choices.user is not None:
            task["User"] = self.choices.user
        return {**task, "Config": {"command": "/bin/sh", "args": ["-c", _HOME.join(map(literal, script.split(_HOME)))]}}

    def _checkout(self, source: Pulled) -> Part:
        commands = source.checkout(self.work, _HOME, self.choices.identity if self.work.secrets else None)
        script = " && ".join(map(shlex.join, commands))
        task = self._run("gitrel-checkout", script)
        return {**task, "Lifecycle": {"Hook": "prestart", "Sidecar": False}}

    def _in_image(self, source: InImage, kind: str) -> Part:
        env = {**self.work.environment(kind, source.base_env), **self.work.plain}
        replaced = [name for name, value in env.items() if _REPLACED.search(value)]
        if replaced:
            what = f"{replaced[0]} has a ${{…}} that Nomad may put something else for"
            raise UsageError(what, hint="keep such a value in a secret, or let clients pull (without --image)")
        config: Part = {
            "image": source.image,
            "entrypoint": ["/bin/sh"],
            "args": ["-c", literal(self.work.commands[kind])],
            "work_dir": f"/{APP}",
            "readonly_rootfs": True,
            "cap_drop": ["all"],
            "security_opt": ["no-new-privileges"],
            "mount": [{"type": "tmpfs", "target": path} for path in self._writable()],
        }
        if self.work.serves(kind):
            config["ports"] = ["app"]
        task: Part = {"Name": kind, "Driver": "docker", "User": self.choices.user or "65532:65532"}
        return {**task, "Config": config, "Env": env, **self._secrets()}

    def _writable(self) -> list[str]:
        return ["/tmp", *(f"/shared/{path}" for path in self.work.manifest.writable)]  # noqa: S108 - the container's

    def _secrets(self) -> Part:
        """From the Nomad variable that the job's tasks may read without further rights."""
        if not self.work.secrets:
            return {}
        lines = "".join(f"{name}={{{{ .{name} | toJSON }}}}\n" for name in self.work.secrets)
        text = f'{{{{ with nomadVar "nomad/jobs/{self.name}" }}}}\n{lines}{{{{ end }}}}\n'
        return {"Templates": [{"EmbeddedTmpl": text, "DestPath": "secrets/variables.env", "Envvars": True}]}


def _nanos(seconds: float) -> int:
    return math.ceil(seconds * 1000) * (_SECOND // 1000)
