"""What the bundle tests are made of: tiny real wheels and conda packages, a server that breaks off, a small workspace."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from .conftest import ROOT

CHANNEL = "https://conda.anaconda.org/conda-forge/"
LINUX = "manylinux_2_17_x86_64"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_wheel(name: str, version: str = "1.0", tag: str = "py3-none-any", padding: int = 0) -> tuple[str, bytes]:
    """(file name, bytes) of a wheel with one module; `padding` bytes make it larger."""
    info = f"{name}-{version}.dist-info"
    tags = "".join(f"Tag: {tag.rsplit('-', 1)[0]}-{one}\n" for one in tag.rsplit("-", 1)[1].split("."))
    files = {
        f"{name}.py": f"VERSION = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n{tags}",
    }
    if padding:
        files[f"{name}.txt"] = "x" * padding
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return f"{name}-{version}-{tag}.whl", content.getvalue()


def make_conda(name: str, version: str = "1.0", text: str = "hello\n") -> tuple[str, bytes]:
    """(file name, bytes) of a .conda package that puts share/NAME.txt into a prefix."""
    import pyarrow

    path = f"share/{name}.txt"
    entry = {
        "_path": path,
        "path_type": "hardlink",
        "sha256": sha256(text.encode()),
        "size_in_bytes": len(text.encode()),
    }
    index = {"name": name, "version": version, "build": "0", "build_number": 0, "subdir": "noarch", "depends": []}
    parts = {
        "pkg": {path: text},
        "info": {
            "info/index.json": json.dumps(index),
            "info/paths.json": json.dumps({"paths": [entry], "paths_version": 1}),
        },
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("metadata.json", json.dumps({"conda_pkg_format_version": 2}))
        for part, files in parts.items():
            packed = pyarrow.compress(make_tar(files), codec="zstd", asbytes=True)
            archive.writestr(f"{part}-{name}-{version}-0.tar.zst", packed)
    return f"{name}-{version}-0.conda", content.getvalue()


def make_tar(files: dict[str, str], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for path, text in files.items():
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(text.encode()), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return content.getvalue()


@dataclass
class Site:
    """Files by path, served with ranges and simple index pages; what was asked is recorded."""

    files: dict[str, bytes] = field(default_factory=dict)
    break_off: dict[str, int] = field(default_factory=dict)
    """By path: after how many bytes the connection ends, once."""
    ranges: bool = True
    user: str = ""
    """'name:password' that every request must carry."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, Range) of every request."""
    address: str = ""

    def add(self, folder: str, *files: tuple[str, bytes]) -> None:
        """Serve files under a folder; wheels below 'simple' get an index page too."""
        self.files |= {f"{folder}/{name}": data for name, data in files}

    def page(self, index: str, project: str) -> bytes:
        """The index page of a project."""
        found = {path: data for path, data in self.files.items() if path.startswith(f"{index}/")}
        links = [
            f'<a href="/{path}#sha256={sha256(data)}">{path.rpartition("/")[2]}</a>'
            for path, data in found.items()
            if path.rpartition("/")[2].startswith(f"{project.replace('-', '_')}-")
        ]
        return "<!DOCTYPE html><html><body>{}</body></html>".format("\n".join(links)).encode() if links else b""


@contextmanager
def serve_site(site: Site) -> Iterator[Site]:
    """Serve a site on this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            import base64

            path = unquote(self.path).strip("/")
            wanted = self.headers.get("Range", "") if site.ranges else ""
            site.asked.append((self.command, path, wanted))
            data = site.files.get(path, b"")
            if not data and self.path.endswith("/"):
                data = site.page(*path.rsplit("/", 1)) if "/" in path else b""
            expected = "Basic " + base64.b64encode(site.user.encode()).decode()
            if site.user and self.headers.get("Authorization") != expected:
                self.send_error(401)
                return
            if not data:
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if wanted else 200)
            self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "application/octet-stream")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            if self.command == "GET":
                limit = site.break_off.pop(path, None)
                self.wfile.write(data[start:] if limit is None else data[start : start + limit])
                self.close_connection = limit is not None

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        site.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield site
        server.shutdown()


PROFILE = """
name = "{name}"
environments = {environments}
why = "a test"
machines = ["x86_64"]
python = ">=3.11,<3.14"
compute_capabilities = []
"""
CUDA = '[cuda]\nwheels = "cu130"\ntoolkit = "13.0"\ndriver = "580"\ncompat = false\n'


class Source:
    """A workspace with small locks: `default` (CPU) and `train` = `eval` (CUDA), and the site that has their files."""

    def __init__(self, root: Path, site: Site) -> None:
        self.root, self.site = root, site
        (root / "tasks").mkdir(parents=True)
        shutil.copy(ROOT / "pixiw", root)
        (root / "pixi.toml").write_text('[tasks]\nhello = "python -c pass"\n')
        self.conda = [make_conda("python", "3.12.5"), make_conda("native")]
        site.add("channel/noarch", *self.conda)
        self.write_pixi_lock()
        (root / "envs").mkdir()
        self.write_lock("envs/uv.lock", [make_wheel("uv", "0.0.1")])
        self.write_profile("default", ["default"])
        self.write_profile("train", ["train", "eval"], CUDA)
        self.wheels = [make_wheel("alpha", padding=300_000), make_wheel("beta", tag=f"cp312-cp312-{LINUX}")]
        for folder in ("default", "train"):
            self.write_lock(f"envs/{folder}/requirements.lock", self.wheels)

    def write_pixi_lock(self) -> None:
        addresses = [f"{CHANNEL}noarch/{name}" for name, _ in self.conda]
        listed = {"linux-64": [{"conda": address} for address in addresses]}
        environment: dict[str, Any] = {"channels": [{"url": CHANNEL}], "packages": listed}
        lock = {
            "version": 7,
            "platforms": [{"name": "linux-64", "virtual-packages": ["__unix=0=0", "__glibc=2.28"]}],
            "environments": dict.fromkeys(("default", "train", "eval"), environment),
            "packages": [
                {"conda": address, "sha256": sha256(data), "size": len(data)}
                for address, (_, data) in zip(addresses, self.conda, strict=True)
            ],
        }
        (self.root / "pixi.lock").write_text(json.dumps(lock))  # JSON is YAML

    def write_profile(self, folder: str, environments: list[str], rest: str = "") -> None:
        (self.root / "envs" / folder).mkdir()
        text = PROFILE.format(name=folder, environments=json.dumps(environments)) + rest
        (self.root / "envs" / folder / "profile.toml").write_text(text)

    def write_lock(self, path: str, wheels: list[tuple[str, bytes]], index: str = "simple") -> None:
        """Write a lock with every wheel's hash, and let the site have the wheels."""
        entries: dict[str, list[str]] = {}
        for name, data in wheels:
            project, version = name.split("-")[:2]
            entries.setdefault(f"{project.replace('_', '-')}=={version}", []).append(sha256(data))
        lines = [
            f"{pin} \\\n" + " \\\n".join(f"    --hash=sha256:{one}" for one in hashes)
            for pin, hashes in entries.items()
        ]
        (self.root / path).write_text("\n".join(lines) + "\n")
        self.site.add(index, *wheels)

    def pin_pixi(self, script: str) -> None:
        """Let the site have a release of pixi that is a shell script, and pin it in the copied pixiw."""
        release = make_tar({"pixi": "#!/bin/sh\n" + script}, "w:gz")
        self.site.add("release", ("pixi-x86_64-unknown-linux-musl.tar.gz", release))
        text = (self.root / "pixiw").read_text()
        row = next(line for line in text.splitlines() if "Linux-x86_64)" in line)
        old = row.partition("sum=")[2].split()[0]
        (self.root / "pixiw").write_text(text.replace(old, sha256(release)))
