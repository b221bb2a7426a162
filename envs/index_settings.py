"""The user's index, folder, proxy and certificate settings, as uv reads them.

People and clusters set these for pip (PIP_*, pip.conf); uv reads UV_* alone. A UV_ setting wins over
pip's for the same; wheel folders add up. Folders that do not exist are left out: uv stops at them, pip
does not.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

# uv's own settings that would change or forbid what the lock says
NOT_HANDED_ON = {
    *("UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_EXCLUDE_NEWER", "UV_RESOLUTION"),
    *("UV_CONSTRAINT", "UV_OVERRIDE", "UV_REQUIRE_HASHES", "UV_NO_VERIFY_HASHES", "UV_PRERELEASE"),
}


@dataclass(frozen=True)
class Settings:
    """What to hand on: variables for uv, existing wheel folders, and whether the index is switched off."""

    variables: dict[str, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    no_index: bool = False

    @property
    def flags(self) -> list[str]:
        """What uv takes as a flag alone: it has no variable for an index that is switched off."""
        return ["--no-index"] if self.no_index else []

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment for a uv process."""
        kept = {key: value for key, value in environ.items() if key not in NOT_HANDED_ON}
        return {**kept, **self.variables}


def pip_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """pip's settings, as pip itself would see them: pip.conf in its places, then PIP_* variables."""
    home = Path(environ.get("HOME", "~")).expanduser()
    own = environ.get("PIP_CONFIG_FILE", "")
    settings: dict[str, str] = {}
    if own != os.devnull:
        places = [Path(p, "pip") for p in environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if p] + [Path("/etc")]
        if not (own and Path(own).exists()):  # pip: an explicit file stands in for the user's
            places += [home / ".pip", Path(environ.get("XDG_CONFIG_HOME", home / ".config"), "pip")]
            places += [home / "Library/Application Support/pip"] if sys.platform == "darwin" else []
        files = [place / "pip.conf" for place in [*places, Path(sys.prefix)]] + ([Path(own)] if own else [])
        parser = configparser.RawConfigParser()
        parser.read(files, encoding="utf-8")
        for section in ("global", "install"):
            if parser.has_section(section):
                settings |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    names = {
        key.removeprefix("PIP_").lower().replace("_", "-"): value
        for key, value in environ.items()
        if key.startswith("PIP_")
    }
    return settings | {key: value for key, value in names.items() if value}


def local_folder(place: str) -> Path | None:
    """The folder that a setting names, or None for a web address."""
    if "://" not in place:
        return Path(place).expanduser().absolute()
    return Path(unquote(urlsplit(place).path)) if place.startswith("file://") else None


def existing(places: list[str]) -> list[str]:
    """Without the folders that do not exist, and without repetitions."""
    kept = [place for place in places if (folder := local_folder(place)) is None or folder.exists()]
    return list(dict.fromkeys(kept))


def read(environ: Mapping[str, str]) -> Settings:
    """The settings of pip and uv, merged."""
    pip = pip_settings(environ)
    variables: dict[str, str] = {}

    def hand_on(value: str, *names: str) -> None:
        if value and not any(environ.get(name) for name in names):
            variables[names[0]] = value

    hand_on(pip.get("index-url", ""), "UV_DEFAULT_INDEX", "UV_INDEX_URL")
    hand_on(" ".join(existing(pip.get("extra-index-url", "").split())), "UV_INDEX", "UV_EXTRA_INDEX_URL")
    # Safe with several indexes because every file's hash is locked: whoever has the file may deliver it.
    hand_on("unsafe-best-match", "UV_INDEX_STRATEGY")
    hand_on(pip.get("trusted-host", ""), "UV_INSECURE_HOST")
    hand_on(pip.get("timeout", pip.get("default-timeout", "")), "UV_HTTP_TIMEOUT", "UV_REQUEST_TIMEOUT")
    hand_on(pip.get("cert", ""), "SSL_CERT_FILE")
    hand_on(pip.get("client-cert", ""), "SSL_CLIENT_CERT")
    for name in ("HTTPS_PROXY", "HTTP_PROXY"):
        hand_on(pip.get("proxy", ""), name, name.lower(), "ALL_PROXY", "all_proxy")
    links = existing(environ.get("UV_FIND_LINKS", "").replace(",", " ").split() + pip.get("find-links", "").split())
    if links or environ.get("UV_FIND_LINKS"):
        variables["UV_FIND_LINKS"] = ",".join(links)
    switched_off = {"1", "true", "yes", "on"}
    no_index = pip.get("no-index", "").lower() in switched_off or environ.get("UV_NO_INDEX", "").lower() in switched_off
    if no_index:
        variables["UV_NO_INDEX"] = "1"
    folders = [folder for place in links if (folder := local_folder(place)) is not None]
    return Settings(variables, folders, no_index)
