"""What the units say, line by line, for plans of every kind."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gitrel.errors import UsageError
from gitrel.export.systemd import MARGIN, Plan, per_process, span, supervised
from gitrel.format.health import Health
from gitrel.format.manifest import RunSpec
from gitrel.ids import App, Deploy, Entry, ObjectId

PLAN = Plan(
    app=App("shop"),
    deploy=Deploy("staging"),
    release=Entry(7),
    record=ObjectId("a" * 40),
    version="1.2.3",
    name="shop",
    home=Path("/srv/shop"),
    program=("/opt/gitrel/bin/gitrel",),
    user="www",
    port=6000,
    processes={
        "web": RunSpec(listen=("127.0.0.1", 80), stop_timeout=7.5),
        "api": RunSpec(listen=("::1", 81), stop_timeout=30),
        "more": RunSpec(listen=("127.0.0.1", 80)),
        "off": RunSpec(listen=("127.0.0.1", 82)),
    },
    scales={"web": 2, "api": 1, "more": 1, "off": 0},
)
ALONE = {
    "shop-api.socket",
    "shop-api@.service",
    "shop-more@.service",
    "shop-off@.service",
    "shop-pull.service",
    "shop-pull.timer",
    "shop-web.socket",
    "shop-web@.service",
    "shop.target",
}


def units(files: dict[str, str]) -> dict[str, str]:
    return {Path(name).name: text for name, text in files.items() if name.startswith("systemd/system/")}


def value(text: str, name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return str(found)


def test_the_same_plan_makes_the_same_files() -> None:
    for make in (supervised, per_process):
        assert list(make(PLAN).items()) == list(make(replace(PLAN)).items())
        for text in make(PLAN).values():
            assert text.startswith(f"# shop staging v7, release record {'a' * 40}\n# Made by `gitrel export systemd`")


def test_one_service() -> None:
    found = units(supervised(PLAN))
    assert set(found) == {"shop.service", "shop-web.socket", "shop-api.socket"}
    service = found["shop.service"]
    assert value(service, "ExecStart") == "/opt/gitrel/bin/gitrel run --follow --port 6000 --home /srv/shop"
    assert value(service, "TimeoutStopSec") == f"{30 + MARGIN}s"
    assert value(service, "Sockets") == value(service, "Also") == "shop-web.socket shop-api.socket"
    assert (value(service, "User"), value(service, "CapabilityBoundingSet")) == ("www", "")
    assert value(found["shop-api.socket"], "ListenStream") == "[::1]:81"
    assert {value(found[name], "Service") for name in found if name.endswith(".socket")} == {"shop.service"}


def test_without_sockets_none_is_mentioned() -> None:
    plain = replace(PLAN, processes={"web": RunSpec()}, scales={"web": 1})
    for make in (supervised, per_process):
        assert not any("socket" in name or "Sockets=" in text for name, text in make(plain).items())


def test_a_service_for_each() -> None:
    found = units(per_process(PLAN))
    assert set(found) == ALONE
    web, more = found["shop-web@.service"], found["shop-more@.service"]
    assert value(web, "ExecStart") == "/opt/gitrel/bin/gitrel exec --home /srv/shop --port 6000 web.%i"
    assert value(web, "TimeoutStopSec") == "7500ms"
    assert value(web, "Sockets") == value(more, "Sockets") == "shop-web.socket"
    assert value(found["shop-web.socket"], "Service") == "shop-web@1.service"
    every = ["shop-web@1.service", "shop-web@2.service", "shop-api@1.service", "shop-more@1.service"]
    assert value(found["shop.target"], "Wants").split() == [
        "shop-web.socket",
        "shop-api.socket",
        *every,
        "shop-pull.timer",
    ]
    assert value(found["shop-pull.service"], "ExecStopPost").endswith(f"/srv/shop/current {' '.join(every)}")
    assert value(found["shop-pull.service"], "TimeoutStopSec") == f"{2 * 7.5 + 30 + 10 + MARGIN:.0f}s"


def test_a_process_that_says_when_it_is_ready() -> None:
    said = replace(PLAN, processes={"web": RunSpec(health=Health(notify=True, timeout=90))}, scales={"web": 1})
    service = units(per_process(said))["shop-web@.service"]
    assert [value(service, name) for name in ("Type", "NotifyAccess", "TimeoutStartSec")] == ["notify", "all", "90s"]
    asked = replace(PLAN, processes={"web": RunSpec(health=Health(port=True))}, scales={"web": 1})
    assert value(units(per_process(asked))["shop-web@.service"], "Type") == "exec"


def test_root_only_where_a_process_has_another_user() -> None:
    mixed = replace(PLAN, user="root", processes={"web": RunSpec(user="www"), "off": RunSpec(user="root")})
    mixed = replace(mixed, scales={"web": 1, "off": 1})
    assert "CAP_SETUID" in value(units(supervised(mixed))["shop.service"], "CapabilityBoundingSet")
    alone = units(per_process(mixed))
    assert "CAP_SETUID" in value(alone["shop-web@.service"], "CapabilityBoundingSet")
    for name in ("shop-off@.service", "shop-pull.service"):
        assert value(alone[name], "CapabilityBoundingSet") == ""
    assert "sysusers.d/shop.conf" not in supervised(mixed)
    assert " :0755 :root - " in supervised(mixed)["tmpfiles.d/shop.conf"]
    own = replace(mixed, user="www", processes={"web": RunSpec(user="www")})
    assert value(units(supervised(own))["shop.service"], "CapabilityBoundingSet") == ""
    for make in (supervised, per_process):
        with pytest.raises(UsageError, match="off runs as root, and gitrel as www"):
            make(replace(mixed, user="www"))


def test_the_user_and_the_folder() -> None:
    found = supervised(replace(PLAN, home=Path("/srv/my shop")))
    assert found["sysusers.d/shop.conf"].endswith('\nu www - "shop (staging)" /var/lib/www\n')
    folders = '\nd "/srv/my shop" :0750 :www - -\nd /var/lib/www :0700 :www - -\n'
    assert found["tmpfiles.d/shop.conf"].endswith(folders)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1ms"), (0.0004, "1ms"), (1.5, "1500ms"), (10, "10s"), (1e9, "1000000000s")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_the_manual_gives_each_line_its_reason() -> None:
    manual = (Path(__file__).parents[2] / "docs/systemd.md").read_text()
    trivial = {"Description", "ExecStart", "ListenStream", "PartOf", "Wants", "WantedBy", "Also"}
    found = set()
    for make in (supervised, per_process):
        for text in units(make(PLAN)).values():
            found |= set(re.findall(r"^([A-Za-z]+)=", text, re.MULTILINE))
    assert len(found) > 40
    assert {name for name in found - trivial if f"`{name}=" not in manual} == set()
