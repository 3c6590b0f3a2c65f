"""Unit files that run a home (docs/systemd.md, where each line that is not obvious has its reason).

Supervised: one service that is `gitrel run`. Per process: each instance of a process type is a service that becomes it
by `gitrel exec`, and a timer pulls. The same plan makes the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from gitrel.dataclass import dataclass
from gitrel.errors import UsageError
from gitrel.export.quoting import command, escape_name, word
from gitrel.format.manifest import RunSpec
from gitrel.ids import App, Deploy, Entry, ObjectId

ROOT = "root"
MARGIN = 20  # seconds of gitrel's own, from the death of the last process to its own end
_SWITCHING = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_KILL CAP_SETGID CAP_SETUID CAP_SYS_PTRACE"

_HARDENING = """\
CapabilityBoundingSet={capabilities}
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={home}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
LimitCORE=0
UMask=0022
"""

_SUPERVISED = """\
[Unit]
Description={app} ({deploy})
After=network.target nss-lookup.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={user}
{sockets}ExecStart={run}
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=5s
TimeoutStartSec=infinity
TimeoutStopSec={stop}
WatchdogSec=3min
KillMode=mixed
OOMPolicy=continue
{hardening}
[Install]
WantedBy=multi-user.target
{also}"""

_SOCKET = """\
[Unit]
Description={app} ({deploy}): socket of {kind}
{part_of}
[Socket]
ListenStream={address}
FileDescriptorName={kind}
Service={service}
Backlog=4096
FreeBind=yes

[Install]
WantedBy=sockets.target
"""

_PROCESS = """\
[Unit]
Description={app} ({deploy}): {kind} %i
PartOf={target}
After=network.target nss-lookup.target
StartLimitIntervalSec=0

[Service]
{type}User={user}
{sockets}RuntimeDirectory=%n
ExecStartPre={note}
ExecStart={become}
Restart=always
RestartSec=1s
TimeoutStopSec={stop}
KillMode=control-group
{hardening}"""

# The process may be a child of a Procfile line's shell.
_NOTIFYING = "Type=notify\nNotifyAccess=all\nTimeoutStartSec={timeout}\n"

_TARGET = """\
[Unit]
Description={app} ({deploy})
Wants={wants}

[Install]
WantedBy=multi-user.target
"""

_PULL = """\
[Unit]
Description={app} ({deploy}): look for a new release
After=network.target nss-lookup.target

[Service]
Type=oneshot
User={user}
ExecStart={pull}
ExecStopPost={restart}
TimeoutStartSec=1h
TimeoutStopSec={stop}
{hardening}"""

_TIMER = """\
[Unit]
Description={app} ({deploy}): look for a new release
PartOf={target}

[Timer]
OnBootSec=30s
OnUnitInactiveSec=30s
RandomizedDelaySec=10s
AccuracySec=1s
"""

# $0: the home's link, then the units. Each remembers what it started from; one that does not run is left alone.
_RESTART = (
    'for unit; do [ "$(readlink "/run/$unit/current")" = "$(readlink "$0")" ] || systemctl try-restart "$unit" || '
    "failed=1; done; exit ${failed-0}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to run, and how.

    `record` is the release's. `program` is how to start gitrel: an absolute path, and words for it. `user` is whom
    gitrel runs as. `processes` are the process types that stay up, in the Procfile's order; `scales` how many of each.
    """

    app: App
    deploy: Deploy
    release: Entry
    record: ObjectId
    version: str
    name: str
    home: Path
    program: tuple[str, ...]
    user: str
    port: int
    processes: Mapping[str, RunSpec]
    scales: Mapping[str, int]


def supervised(plan: Plan) -> dict[str, str]:
    """One service for all. File names as below /etc, and what is in them. Raises `UsageError`."""
    units = _Units(plan)
    service = f"{units.name}.service"
    sockets = {units.socket_name(kind): units.socket(kind, service, "") for kind in units.sockets.values()}
    stop = max((spec.stop_timeout for spec in plan.processes.values()), default=0.0)
    switching = any(map(units.switches, plan.processes))
    main = units.fill(
        _SUPERVISED,
        user=plan.user,
        sockets=f"Sockets={' '.join(sockets)}\n" if sockets else "",
        run=units.gitrel("run", "--follow", "--port", str(plan.port)),
        stop=span(stop + MARGIN),
        hardening=units.hardening(switching),
        also=f"Also={' '.join(sockets)}\n" if sockets else "",
    )
    return units.files({service: main, **sockets})


def per_process(plan: Plan) -> dict[str, str]:
    """A service for each instance, a target, a timer. As `supervised`."""
    units = _Units(plan)
    target = f"{units.name}.target"
    made: dict[str, str] = {}
    instances: dict[str, list[str]] = {kind: units.instances(kind) for kind in plan.processes}
    for kind, spec in plan.processes.items():
        listening = units.sockets.get(spec.listen) if spec.listen else None
        if listening == kind:
            made[units.socket_name(kind)] = units.socket(kind, instances[kind][0], target)
        made[f"{units.name}-{kind}@.service"] = units.process(kind, listening, target)
    every = [unit for kind in instances for unit in instances[kind]]
    waiting = sum(plan.processes[kind].stop_timeout * len(instances[kind]) for kind in instances)
    made[f"{units.name}-pull.service"] = units.fill(
        _PULL,
        user=plan.user,
        pull=units.gitrel("pull"),
        restart=command("/bin/sh", "-c", _RESTART, str(plan.home / "current"), *every, prefix="+"),
        stop=span(waiting + MARGIN),
        hardening=units.hardening(False),
    )
    made[f"{units.name}-pull.timer"] = units.fill(_TIMER, target=target)
    sockets = [name for name in made if name.endswith(".socket")]
    made[target] = units.fill(_TARGET, wants=" ".join([*sockets, *every, f"{units.name}-pull.timer"]))
    return units.files(made)


class _Units:
    """What the files of one plan have in common."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = escape_name(plan.name)
        self.sockets: dict[tuple[str, int], str] = {}  # by address, the process type that it is named after
        for kind, spec in plan.processes.items():
            if spec.listen is not None and plan.scales[kind]:
                self.sockets.setdefault(spec.listen, kind)
        for kind in filter(self.switches, plan.processes):
            if plan.user != ROOT:
                raise UsageError(
                    f"{kind} runs as {plan.processes[kind].user}, and gitrel as {plan.user}",
                    why="only root can start processes as another user",
                    hint="--user root, or leave `user` out of gitrel.toml",
                )

    def fill(self, template: str, **values: str) -> str:
        return template.format(app=self.plan.app, deploy=self.plan.deploy, **values)

    def files(self, units: Mapping[str, str]) -> dict[str, str]:
        """All files by name, with those that make the user and the folder; each begins with where it is from."""
        plan = self.plan
        mode = "0755" if any(map(self.switches, plan.processes)) else "0750"
        found = {f"systemd/system/{name}": text for name, text in units.items()}
        folders = [f"d {word(str(plan.home))} :{mode} :{plan.user} - -"]
        if plan.user != ROOT:
            own = f"/var/lib/{plan.user}"  # not the home, which has to be empty for `gitrel join`
            folders.append(f"d {own} :0700 :{plan.user} - -")
            found[f"sysusers.d/{self.name}.conf"] = f'u {plan.user} - "{plan.app} ({plan.deploy})" {own}\n'
        found[f"tmpfiles.d/{self.name}.conf"] = "".join(f"{line}\n" for line in folders)
        header = (
            f"# {plan.app} {plan.deploy} {plan.release}, release record {plan.record}\n"
            f"# Made by `gitrel export systemd` of gitrel {plan.version}; a drop-in changes it (`systemctl edit`).\n"
        )
        return {name: header + found[name] for name in sorted(found)}

    def gitrel(self, *args: str) -> str:
        return command(*self.plan.program, *args, "--home", str(self.plan.home))

    def switches(self, kind: str) -> bool:
        """Whether gitrel has to become another user for this process type."""
        return self.plan.processes[kind].user not in (None, self.plan.user)

    def hardening(self, switching: bool) -> str:
        return _HARDENING.format(capabilities=_SWITCHING if switching else "", home=word(str(self.plan.home)))

    def socket_name(self, kind: str) -> str:
        return f"{self.name}-{kind}.socket"

    def socket(self, kind: str, service: str, target: str) -> str:
        host, port = self.plan.processes[kind].listen or ("", 0)
        return self.fill(
            _SOCKET,
            kind=kind,
            address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            service=service,
            part_of=f"PartOf={target}\n" if target else "",
        )

    def instances(self, kind: str) -> list[str]:
        """Their services: `shop-web@2` is the process web.2."""
        return [f"{self.name}-{kind}@{number}.service" for number in range(1, self.plan.scales[kind] + 1)]

    def process(self, kind: str, listening: str | None, target: str) -> str:
        spec = self.plan.processes[kind]
        where = ("--home", str(self.plan.home), "--port", str(self.plan.port))
        health = spec.health
        return self.fill(
            _PROCESS,
            kind=kind,
            target=target,
            user=self.plan.user,
            sockets=f"Sockets={self.socket_name(listening)}\n" if listening else "",
            note=f"{command('/bin/cp', '-P', str(self.plan.home / 'current'), prefix='-')} %t/%n",
            type=_NOTIFYING.format(timeout=span(health.timeout)) if health and health.notify else "Type=exec\n",
            become=f"{command(*self.plan.program, 'exec', *where, f'{kind}.')}%i",
            stop=span(spec.stop_timeout),
            hardening=self.hardening(self.switches(kind)),
        )


def span(seconds: float) -> str:
    """As systemd.time(7) has it. Never 0, which means for ever."""
    millis = max(1, math.ceil(seconds * 1000))
    return f"{millis // 1000}s" if millis % 1000 == 0 else f"{millis}ms"
