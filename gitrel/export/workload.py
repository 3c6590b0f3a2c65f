"""A release as engines of many machines have to be told of it (docs/kubernetes.md, docs/scaling.md).

They get one of two things: an image of the release, or a machine with gitrel, which fetches, verifies and checks out
the release itself before `gitrel exec` becomes one of its processes.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Mapping

from gitrel.dataclass import dataclass
from gitrel.errors import BadInput, UsageError
from gitrel.format.envdir import SECRET_SUFFIX, plain_values, secret_names
from gitrel.format.manifest import MANIFEST, RELEASE_PHASE, Manifest, RunSpec
from gitrel.format.tree import Node
from gitrel.ids import App, Deploy, Entry, Sha256
from gitrel.trust.ledger import ChainedRelease

ATTEMPT = 5  # seconds for one answer to a health check, as under `gitrel run`
_LABEL = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1035, as Kubernetes wants a service's name


def facts(chained: ChainedRelease, build: Node) -> dict[str, str]:
    """Which release it is, as labels and annotations."""
    return {
        "gitrel.deploy": chained.record.deploy,
        "gitrel.release": str(chained.id),
        "gitrel.tree": f"{build.oid} {build.sha256}",
        "gitrel.trust": str(chained.trust.cited),
        "gitrel.signers": ", ".join(chained.signers),
    }


def told(chained: ChainedRelease) -> dict[str, str]:
    """Which release it is, as its processes read it."""
    record = chained.record
    return {
        "GITREL_APP": record.app,
        "GITREL_DEPLOY": record.deploy,
        "GITREL_RELEASE": str(record.entry),
        "GITREL_SOURCE": chained.build.record.source,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class InImage:
    """The release is in the image, at /app; `base_env` is what each of its processes gets before anything else."""

    image: str
    base_env: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """gitrel and what the app needs are on the machine (for Kubernetes: in `image`); the release comes from `url`."""

    image: str
    url: str
    pin: Sha256

    def checkout(self, work: Workload, home: str, identity: str | None) -> list[list[str]]:
        """The commands that make a home with this very release, in their order; each may be run again."""
        join = ["gitrel", "join", self.url, home, "--trust", self.pin, "--deploy", work.deploy]
        return [
            [*join, "--identity", identity] if identity else join,
            ["gitrel", "pin", str(work.entry), "--home", home],
        ]

    def become(self, work: Workload, kind: str, home: str) -> list[str]:
        return ["gitrel", "exec", kind, "--home", home, "--port", str(work.base_port)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`facts` and `told` as above. `commands` by process type, the release phase among them; `config` has the files of
    the release's config by name. `base_port` is the PORT of the first process type.
    """

    app: App
    deploy: Deploy
    entry: Entry
    name: str
    facts: Mapping[str, str]
    told: Mapping[str, str]
    commands: Mapping[str, str]
    manifest: Manifest
    config: Mapping[str, bytes]
    base_port: int

    @property
    def kinds(self) -> list[str]:
        """The process types that stay up."""
        return [kind for kind in self.commands if kind != RELEASE_PHASE]

    @property
    def plain(self) -> dict[str, str]:
        return plain_values(self.config)

    @property
    def secrets(self) -> list[str]:
        return secret_names(self.config)

    @property
    def missing(self) -> list[str]:
        """Variables that the build requires and the config does not have."""
        return self.manifest.missing([*self.plain, *self.secrets])

    def spec(self, kind: str) -> RunSpec:
        return self.manifest.run.get(kind, RunSpec())

    def serves(self, kind: str) -> bool:
        """Whether others are to reach it: it is asked or handed a socket, or it is `web`."""
        spec = self.spec(kind)
        asked = spec.health is not None and not spec.health.notify
        return kind != RELEASE_PHASE and (kind == "web" or asked or spec.listen is not None)

    def speaks_http(self, kind: str) -> bool:
        health = self.spec(kind).health
        return kind == "web" or (health is not None and health.path is not None)

    def variable(self, kind: str) -> int:
        """PORT: foreman's rule, as `gitrel exec` has it."""
        return self.base_port + 100 * list(self.commands).index(kind)

    def port(self, kind: str) -> int:
        """Where it listens."""
        listen = self.spec(kind).listen
        return listen[1] if listen else self.variable(kind)

    def environment(self, kind: str, base_env: Mapping[str, str]) -> dict[str, str]:
        """All but the config, which wins over the first two of these: it is left to come from elsewhere."""
        config = {*self.plain, *self.secrets}
        own = {**base_env, **self.spec(kind).env}
        return {
            **{name: value for name, value in sorted(own.items()) if name not in config},
            "PORT": str(self.variable(kind)),
            **self.told,
            "GITREL_PROCESS": kind,
        }

    def fingerprint(self, *, secret: bool) -> str:
        """Of the plain or the secret part of the config, as it is stored: of secrets that is their encrypted files."""
        files = {name: data for name, data in self.config.items() if name.endswith(SECRET_SUFFIX) == secret}
        text = json.dumps({name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)})
        return hashlib.sha256(text.encode()).hexdigest()

    def label(self, *parts: str) -> str:
        """A name of something of this workload's. Raises `UsageError` for what engines do not take as one."""
        found = "-".join((self.name, *parts)).lower().replace("_", "-")
        if _LABEL.fullmatch(found) is None:
            why = "lower-case letters, digits and -, a letter first, at most 63 in all"
            raise UsageError("not a name that an engine takes", where=repr(found[:200]), why=why, hint="--name NAME")
        return found

    def labels(self) -> dict[str, str]:
        """Names of all process types. Raises `UsageError` if two become the same."""
        found = {kind: self.label(kind) for kind in self.kinds}
        twice = [kind for kind in found if list(found.values()).count(found[kind]) > 1]
        if twice:
            raise UsageError(f"{' and '.join(twice)} would have the same name", where="Procfile", why=found[twice[0]])
        return found

    def check_reachable(self) -> None:
        """`gitrel exec` binds what `listen` says; on loopback nobody else is served. Raises `BadInput`."""
        for kind in self.kinds:
            listen = self.spec(kind).listen
            if listen is not None and ipaddress.ip_address(listen[0]).is_loopback:
                where = f"{MANIFEST}: run.{kind}.listen"
                hint = f'listen = "0.0.0.0:{listen[1]}"'
                raise BadInput(
                    f"{kind} listens on {listen[0]}", where=where, why="nothing outside reaches it", hint=hint
                )

    def remarks(self, *, in_image: bool) -> list[str]:
        """What of gitrel.toml the engine cannot do, or does not know."""
        found = ["no CPU or memory is asked for or limited: gitrel.toml does not say how much"]
        for kind in self.kinds:
            spec = self.spec(kind)
            if spec.health is not None and spec.health.notify:
                found.append(f"{kind} says itself when it is ready, which engines do not hear: it is not asked")
            if spec.listen is not None and in_image:
                found.append(f"{kind} is handed no socket in an image: it has to bind port {spec.listen[1]} itself")
            if spec.user is not None:
                known = "runs as whom the engine starts it, not as" if in_image else "has to be started as"
                found.append(f"{kind} {known} {spec.user}")
        if self.manifest.writable:
            found.append(f"what is written to {', '.join(self.manifest.writable)} is gone with its machine's copy")
        if self.missing:
            found.append(f"the build requires what the config does not have: {', '.join(self.missing)}")
        return found
