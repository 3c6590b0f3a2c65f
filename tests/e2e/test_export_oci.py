"""`gitrel export oci` and `gitrel verify --oci`: the same bytes each time, images that other tools read and run, and
images that are not the release.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from apps import Shop, farm, shop
from conftest import program
from room import Desk, Room, room, run
from team import Team, team, template

__all__ = ["farm", "room", "shop", "team", "template"]  # fixtures

Shops = Callable[..., Shop]

_WEB = 'read line < text; echo "$GITREL_RELEASE $COLOUR $line $PORT $KIND $HOME $TOKEN"; pwd; ls / 2>&1 || true'
SECRET = "the-token-itself"


@pytest.fixture
def dev(shop: Shops) -> Shop:
    """v1, with config, a secret, a link, an executable, and names that tar has to escape."""
    return shop(0, first_release)


def first_release(dev: Shop) -> None:
    desk = dev.desk
    desk.write("Procfile", f"web: {_WEB}\nworker: sleep 5\n")
    desk.write("bin/run", "#!/bin/sh\n", 0o755)
    desk.write(f"{'d' * 120}/ä\N{SNOWMAN}", "deep\n")
    desk.write("empty", "")
    (desk.path / "link").symlink_to("bin/run")
    desk.manifest('[run.web.env]\nKIND = "app"\nCOLOUR = "red"\n')
    desk.gitrel("config", "set", "COLOUR=green")
    assert dev.release() == "v1"


def add_secret(dev: Shop) -> bytes:
    """TOKEN in the config, and how it is stored."""
    public = (dev.desk.home / ".ssh/id_ed25519.pub").read_text().strip()
    dev.desk.gitrel("trust", "add-reader", public, "--yes")
    dev.desk.gitrel("config", "set", "--secret", f"TOKEN={SECRET}")
    return dev.desk.raw("refs/config/v2:TOKEN.age", "blob")


@dataclass(frozen=True, slots=True)
class Made:
    """A layout and its parts."""

    path: Path

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        digest = str(descriptor["digest"])
        return (self.path / "blobs" / digest.replace(":", "/")).read_bytes()

    @property
    def manifest(self) -> dict[str, Any]:
        (descriptor,) = json.loads((self.path / "index.json").read_bytes())["manifests"]
        return dict(json.loads(self.blob(descriptor)))

    @property
    def config(self) -> dict[str, Any]:
        return dict(json.loads(self.blob(self.manifest["config"])))

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.path)): path.read_bytes() for path in self.path.rglob("*") if path.is_file()}

    def layer(self, at: int) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
        found = {}
        with tarfile.open(fileobj=io.BytesIO(self.blob(self.manifest["layers"][at]))) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                found[member.name] = (member, file.read() if file else b"")
        return found

    def store(self, raw: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(raw).hexdigest()
        (self.path / "blobs/sha256" / digest).write_bytes(raw)
        return {"digest": f"sha256:{digest}", "size": len(raw)}

    def rewrite(self, manifest: dict[str, Any], config: dict[str, Any]) -> None:
        """As somebody who makes all digests fit."""
        manifest["config"] |= self.store(json.dumps(config).encode())
        index = json.loads((self.path / "index.json").read_bytes())
        index["manifests"][0] |= self.store(json.dumps(manifest).encode())
        (self.path / "index.json").write_text(json.dumps(index))

    def replace_layer(self, at: int, change: Callable[[dict[str, tuple[tarfile.TarInfo, bytes]]], None]) -> None:
        members = self.layer(at)
        change(members)
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for member, data in members.values():
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        manifest, config = self.manifest, self.config
        manifest["layers"][at] |= self.store(raw.getvalue())
        config["rootfs"]["diff_ids"][at] = manifest["layers"][at]["digest"]
        self.rewrite(manifest, config)

    def change_config(self, change: Callable[[dict[str, Any]], object]) -> None:
        manifest, config = self.manifest, self.config
        change(config)
        self.rewrite(manifest, config)


def export(desk: Desk, to: Path, *args: str) -> Made:
    desk.gitrel("export", "oci", "-o", str(to), *args)
    return Made(to)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An image with a shell and nothing else, made by umoci; its layer is compressed."""
    layout, bundle = tmp_path / "base", tmp_path / "bundle"
    umoci = program("umoci")
    for argv in (["init", "--layout", str(layout)], ["new", "--image", f"{layout}:latest"]):
        assert run([umoci, *argv], tmp_path, os.environ).code == 0
    assert run([umoci, "unpack", "--image", f"{layout}:latest", str(bundle)], tmp_path, os.environ).code == 0
    root = bundle / "rootfs"
    for folder in ("bin", "tmp", "proc", "dev", "sys", "etc", "run", "var/tmp"):
        (root / folder).mkdir(parents=True)
    shell = os.path.realpath("/bin/sh")
    shutil.copy2(shell, root / "bin/sh")
    for line in subprocess.run(["ldd", shell], capture_output=True, text=True, check=True).stdout.splitlines():
        library = next((word for word in line.split() if word.startswith("/")), None)
        if library:
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, root / library[1:])
    done = run([umoci, "repack", "--image", f"{layout}:latest", str(bundle)], tmp_path, os.environ)
    assert done.code == 0, done.err
    return layout


def test_the_same_release_is_the_same_image(dev: Shop, room: Room, tmp_path: Path) -> None:
    first = export(dev.desk, tmp_path / "one", "v1")
    dev.release()
    add_secret(dev)
    dev.release()
    dev.desk.git("push", "-q", "origin", "HEAD:main")
    assert export(dev.desk, tmp_path / "two", "v1").files() == first.files(), "whatever came afterwards"
    os.utime(tmp_path / "one/index.json", (1, 1))
    for name in ("a", "b"):
        dev.desk.gitrel("export", "oci", "v1", "-o", str(tmp_path / f"{name}.tar"))
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    worker = export(dev.desk, tmp_path / "worker", "v1", "--process", "worker")
    assert worker.manifest["layers"] == first.manifest["layers"]
    assert worker.config["config"]["Cmd"] == ["/bin/sh", "-c", "exec sleep 5"]
    assert export(dev.desk, tmp_path / "newest").manifest["annotations"]["org.opencontainers.image.version"] == "v3"


def test_what_is_in_it(dev: Shop, tmp_path: Path) -> None:
    made = export(dev.desk, tmp_path / "image", "--port", "8080", "--user", "7:8")
    app = made.layer(0)
    assert list(app) == ["app", *sorted((name for name in app if name != "app"), key=str.encode)]
    assert {member.mtime for member, _ in app.values()} == {0}
    assert {(member.uid, member.gid, member.uname) for member, _ in app.values()} == {(0, 0, "")}
    modes = {name: member.mode for name, (member, _) in app.items()}
    assert (modes["app/bin/run"], modes["app/text"], modes["app/bin"]) == (0o755, 0o644, 0o755)
    assert app["app/link"][0].linkname == "bin/run"
    assert app[f"app/{'d' * 120}/ä\N{SNOWMAN}"][1] == b"deep\n"
    said = made.config["config"]
    assert (said["User"], said["WorkingDir"], said["Cmd"]) == ("7:8", "/app", ["/bin/sh", "-c", _WEB])
    env = dict(line.split("=", 1) for line in said["Env"])
    assert (env["PORT"], env["KIND"], env["COLOUR"], env["GITREL_RELEASE"]) == ("8080", "app", "green", "v1")
    for name, (_, data) in made.layer(1).items():
        if "/objects/" in name:
            assert hashlib.sha1(data).hexdigest() == name.rpartition("/")[2]
    revision = dev.desk.git("rev-parse", "HEAD")
    assert made.manifest["annotations"]["org.opencontainers.image.revision"] == revision
    assert said["Labels"]["gitrel.signers"] == "test"


def test_no_secret_is_in_it_and_it_is_proven_all_the_same(dev: Shop, tmp_path: Path) -> None:
    stored = add_secret(dev)
    dev.release()
    done = dev.desk.gitrel("export", "oci", "-o", str(tmp_path / "image"))
    assert "to be given when it runs: TOKEN" in done.err
    everything = b"".join(Made(tmp_path / "image").files().values())
    for part in (SECRET.encode(), stored, stored[:200], base64.b64encode(SECRET.encode())):
        assert part not in everything
    proven = dev.desk.gitrel("verify", "--oci", str(tmp_path / "image"), "--trust", dev.pin, "--json").json
    assert proven["release"] == "v2"
    assert proven["annotations"]["gitrel.required"] == "TOKEN"


def test_other_tools_read_and_run_it(dev: Shop, base: Path, tmp_path: Path) -> None:
    made = export(dev.desk, tmp_path / "image", "--base", str(base))
    skopeo = program("skopeo")
    shown = run([skopeo, "inspect", f"oci:{made.path}:v1"], tmp_path, os.environ)
    assert json.loads(shown.out)["Labels"]["org.opencontainers.image.title"] == "shop"
    dev.desk.gitrel("export", "oci", "--base", str(base), "-o", str(tmp_path / "image.tar"))
    packed = run([skopeo, "inspect", f"oci-archive:{tmp_path}/image.tar"], tmp_path, os.environ)
    assert json.loads(packed.out)["Digest"] == json.loads(shown.out)["Digest"]
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    copied = tmp_path / "copied"
    argv = [skopeo, "--policy", str(policy), "copy", "-q", "--dest-compress", f"oci:{made.path}:v1", f"oci:{copied}:v1"]
    assert (done := run(argv, tmp_path, os.environ)).code == 0, done.err
    assert {layer["mediaType"].rpartition("+")[2] for layer in Made(copied).manifest["layers"]} == {"gzip"}
    for path in (made.path, copied):
        assert dev.desk.gitrel("verify", "--oci", str(path), "--trust", dev.pin, "--json").json["base_layers"] == 1

    store = ["--root", str(tmp_path / "store"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
    buildah = [program("buildah"), *store]
    pulled = run([*buildah, "from", f"--signature-policy={policy}", f"oci:{copied}:v1"], tmp_path, os.environ)
    assert pulled.code == 0, pulled.err
    command = Made(copied).config["config"]["Cmd"]
    argv = [*buildah, "run", "--isolation", "chroot", "--env", "TOKEN=given", pulled.out.strip(), "--", *command]
    ran = run(argv, tmp_path, os.environ)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[:2] == ["v1 green 1 5000 app /tmp given", "/app"]


def other_file(made: Made) -> None:
    def change(members: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
        members["app/text"] = (members["app/text"][0], b"2\n")

    made.replace_layer(0, change)


def more_files(made: Made) -> None:
    made.replace_layer(0, lambda members: members.update({"x": (tarfile.TarInfo("app/sitecustomize.py"), b"evil")}))


def fewer_files(made: Made) -> None:
    made.replace_layer(0, lambda members: members.__delitem__("app/empty"))


def setuid(made: Made) -> None:
    made.replace_layer(0, lambda members: setattr(members["app/bin/run"][0], "mode", 0o4755))


def executable(made: Made) -> None:
    made.replace_layer(0, lambda members: setattr(members["app/text"][0], "mode", 0o755))


def other_owner(made: Made) -> None:
    made.replace_layer(0, lambda members: setattr(members["app/text"][0], "uid", 65532))


def other_link(made: Made) -> None:
    made.replace_layer(0, lambda members: setattr(members["app/link"][0], "linkname", "/bin/sh"))


def outside(made: Made) -> None:
    made.replace_layer(0, lambda members: members.update({"x": (tarfile.TarInfo("bin/sh"), b"evil")}))


def other_command(made: Made) -> None:
    made.change_config(lambda config: config["config"].update({"Cmd": ["/bin/sh", "-c", "evil"]}))


def an_entrypoint(made: Made) -> None:
    made.change_config(lambda config: config["config"].update({"Entrypoint": ["/evil"]}))


def more_variables(made: Made) -> None:
    made.change_config(lambda config: config["config"]["Env"].append("LD_PRELOAD=/evil.so"))


def other_variable(made: Made) -> None:
    made.change_config(lambda config: config["config"]["Env"].__setitem__(0, "COLOUR=blue"))


def other_label(made: Made) -> None:
    made.change_config(lambda config: config["config"]["Labels"].update({"gitrel.signers": "bob"}))


def other_config(made: Made) -> None:
    def change(members: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
        members[".gitrel/config/COLOUR"] = (members[".gitrel/config/COLOUR"][0], b"blue")

    made.replace_layer(1, change)


def no_trust(made: Made) -> None:
    def change(members: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
        member, data = members[".gitrel/refs"]
        lines = [line for line in data.splitlines(keepends=True) if b"refs/trust/" not in line]
        members[".gitrel/refs"] = (member, b"".join(lines))

    made.replace_layer(1, change)


def damaged_object(made: Made) -> None:
    def change(members: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
        name = next(name for name in members if name.startswith(".gitrel/objects/"))
        members[name] = (members[name][0], members[name][1].replace(b"\0", b"\0 "))

    made.replace_layer(1, change)


def stray_record(made: Made) -> None:
    made.replace_layer(1, lambda members: members.update({"x": (tarfile.TarInfo(".gitrel/z"), b"evil")}))


def no_records(made: Made) -> None:
    made.replace_layer(1, lambda members: members.__delitem__(".gitrel/refs"))


def a_layer_on_top(made: Made) -> None:
    manifest, config = made.manifest, made.config
    manifest["layers"].append(manifest["layers"][0])
    config["rootfs"]["diff_ids"].append(config["rootfs"]["diff_ids"][0])
    made.rewrite(manifest, config)


def a_layer_below(made: Made) -> None:
    manifest, config = made.manifest, made.config
    manifest["layers"].insert(0, manifest["layers"][0])
    config["rootfs"]["diff_ids"].insert(0, config["rootfs"]["diff_ids"][0])
    made.rewrite(manifest, config)


def a_damaged_blob(made: Made) -> None:
    path = made.path / "blobs" / made.manifest["layers"][0]["digest"].replace(":", "/")
    path.write_bytes(path.read_bytes() + b"\0")


def a_config_in_capitals(made: Made) -> None:
    """Go takes either, and the last one wins."""
    made.change_config(lambda config: config.update({"Config": {**config["config"], "Cmd": ["/evil"]}}))


def a_false_annotation(made: Made) -> None:
    manifest, config = made.manifest, made.config
    manifest["annotations"]["gitrel.signers"] = "bob"
    made.rewrite(manifest, config)


def bytes_after_the_end(made: Made) -> None:
    """Python's tarfile stops before them."""
    manifest, config = made.manifest, made.config
    hidden = io.BytesIO()
    with tarfile.open(fileobj=hidden, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("app/sitecustomize.py"))
    manifest["layers"][0] |= made.store(made.blob(manifest["layers"][0]) + hidden.getvalue())
    config["rootfs"]["diff_ids"][0] = manifest["layers"][0]["digest"]
    made.rewrite(manifest, config)


_FILES, _LAYER, _CONFIG = "files are not the signed ones", "is not written as", "config is another"
TAMPERS = {
    **dict.fromkeys((other_file, more_files, fewer_files, executable, other_link, other_config), _FILES),
    **dict.fromkeys((setuid, other_owner, bytes_after_the_end), _LAYER),
    **dict.fromkeys((other_command, an_entrypoint, more_variables, other_variable), _CONFIG),
    **dict.fromkeys((other_label, a_false_annotation), _CONFIG),
    **dict.fromkeys((no_trust, damaged_object), "records are not whole"),
    **dict.fromkeys((a_layer_on_top, a_layer_below), "the base has a /app"),
    a_config_in_capitals: "JSON that is clear",
    outside: "more than the build",
    stray_record: "no record",
    no_records: "incomplete",
    a_damaged_blob: "not what its name says",
}


def test_an_image_that_is_not_the_release(dev: Shop, tmp_path: Path) -> None:
    good = export(dev.desk, tmp_path / "good")
    check = ("verify", "--oci")
    dev.desk.gitrel(*check, str(good.path), "--trust", dev.pin)
    assert "pin" in dev.desk.gitrel(*check, str(good.path), "--trust", "0" * 64, code=10).err
    assert "no pin" in dev.desk.gitrel(*check, str(good.path), code=2).err
    dev.desk.gitrel(*check, str(tmp_path), "--trust", dev.pin, code=11)
    assert len(TAMPERS) > 15
    for tamper, what in TAMPERS.items():
        bad = Made(tmp_path / tamper.__name__)
        shutil.copytree(good.path, bad.path)
        tamper(bad)
        done = dev.desk.gitrel(*check, str(bad.path), "--trust", dev.pin, code=10)
        assert what in done.message["what"], f"{tamper.__name__}\n{done.err}"


def test_another_release_in_the_place_of_this_one(dev: Shop, tmp_path: Path) -> None:
    """Each half is signed, and they do not belong together."""
    first = export(dev.desk, tmp_path / "v1")
    dev.release()
    second = export(dev.desk, tmp_path / "v2")
    manifest, config = second.manifest, second.config
    manifest["layers"][0] = first.manifest["layers"][0]
    config["rootfs"]["diff_ids"][0] = first.config["rootfs"]["diff_ids"][0]
    shutil.copytree(first.path / "blobs", second.path / "blobs", dirs_exist_ok=True)
    second.rewrite(manifest, config)
    failed = dev.desk.gitrel("verify", "--oci", str(second.path), "--trust", dev.pin, code=10)
    assert _FILES in failed.message["what"]


def test_releases_of_every_kind(dev: Shop, tmp_path: Path) -> None:
    """A rollback, and another deploy: each proves itself."""
    dev.release()
    assert dev.publish("rollback", "v1") == "v3"
    dev.desk.gitrel("promote", "v3", "--from", "production", "--to", "staging")
    for args, entry in ((("v3",), "v3"), (("v1", "--deploy", "staging"), "v1")):
        made = export(dev.desk, tmp_path / "-".join(args), *args)
        proven = dev.desk.gitrel("verify", "--oci", str(made.path), "--trust", dev.pin, "--json").json
        assert proven["release"] == entry
        assert proven["annotations"]["gitrel.deploy"] == ("staging" if "staging" in args else "production")


def test_a_release_that_two_people_signed(team: Team, tmp_path: Path) -> None:
    team.build("print('two')\n")
    made = export(team.bob, tmp_path / "image", team.release())
    assert made.config["config"]["Labels"]["gitrel.signers"] == "alice, bob"
    check = ("verify", "--oci", str(made.path), "--trust", team.pin)
    team.bob.gitrel(*check)
    approval = f"refs/approvals/{team.bob.refs()['refs/releases/v2']}/".encode()

    def change(members: dict[str, tuple[tarfile.TarInfo, bytes]]) -> None:
        member, data = members[".gitrel/refs"]
        lines = data.splitlines(keepends=True)
        members[".gitrel/refs"] = (member, b"".join(line for line in lines if approval not in line))

    made.replace_layer(1, change)
    assert "(check 6)" in team.bob.gitrel(*check, code=10).err


def test_in_a_sha256_repository(room: Room, tmp_path: Path) -> None:
    desk = room.desk(object_format="sha256")
    pin = desk.gitrel("init", "--json").json["pin"]
    desk.gitrel("release")
    made = export(desk, tmp_path / "image")
    desk.gitrel("verify", "--oci", str(made.path), "--trust", pin)
    names = [name for name in made.layer(1) if "/objects/" in name]
    assert names
    assert all(hashlib.sha256(made.layer(1)[name][1]).hexdigest() == name.rpartition("/")[2] for name in names)


def test_folders_that_processes_may_write(dev: Shop, tmp_path: Path) -> None:
    dev.desk.manifest('[run]\nwritable = ["uploads"]\n')
    dev.release()
    done = dev.desk.gitrel("export", "oci", "-o", str(tmp_path / "image"))
    assert "to be mounted below /shared, for it to write to: uploads" in done.err
    link = Made(tmp_path / "image").layer(0)["app/uploads"][0].linkname
    assert os.path.normpath(f"/app/{link}") == "/shared/uploads"


def test_what_it_refuses(dev: Shop, base: Path, tmp_path: Path) -> None:
    there = export(dev.desk, tmp_path / "image")
    assert "there already" in dev.desk.gitrel("export", "oci", "-o", str(there.path), code=2).err
    target = ("-o", str(tmp_path / "new"))
    dev.desk.gitrel("export", "oci", "v9", *target, code=11)
    assert "web, worker" in dev.desk.gitrel("export", "oci", "--process", "x", *target, code=11).message["why"]
    assert "the base has a /app" in dev.desk.gitrel("export", "oci", "--base", str(there.path), *target, code=16).err
    dev.desk.gitrel("export", "oci", "--base", str(tmp_path), *target, code=11)
    assert "platform" in dev.desk.gitrel("export", "oci", "--platform", "x", *target, code=16).err
    dev.desk.write(".wh.text", "")
    dev.desk.commit()
    dev.release()
    assert ".wh." in dev.desk.gitrel("export", "oci", *target, code=16).err
    assert sorted(path.name for path in tmp_path.iterdir() if "new" in path.name) == []
