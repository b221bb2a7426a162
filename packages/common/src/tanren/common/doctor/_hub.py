"""The Hugging Face hub on this machine: where its cache is, whether there is a token, and whether it may be asked.

The same rules as huggingface_hub/constants.py (1.33), which reads its variables once, when it is imported; a test
compares. A token is never read into a finding, not even a part of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tanren.common.doctor._finding import Finding, Verdict
from tanren.common.doctor._subject import Subject

ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class HubPlaces:
    """Where the library looks."""

    cache: Path
    """Of models and data sets."""
    token: Path
    endpoint: str


def hub_places(variables: Mapping[str, str]) -> HubPlaces:
    """Return the cache (HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME), the token's file and the address (HF_ENDPOINT)."""
    user = variables.get("XDG_CACHE_HOME", "~/.cache")
    home = _expand(variables.get("HF_HOME", f"{user}/huggingface"), variables)
    named = variables.get("HF_HUB_CACHE", variables.get("HUGGINGFACE_HUB_CACHE", f"{home}/hub"))
    token = _expand(variables.get("HF_TOKEN_PATH", f"{home}/token"), variables)
    return HubPlaces(_expand(named, variables), token, variables.get("HF_ENDPOINT", ENDPOINT).rstrip("/"))


def is_offline(variables: Mapping[str, str]) -> str:
    """Return the variable that forbids every question to the hub, '' for none."""
    name = next((name for name in _OFFLINE if variables.get(name)), "")  # the first that is not empty decides
    return name if variables.get(name, "").upper() in _TRUE else ""


def check_hub(subject: Subject) -> Iterator[Finding]:
    """Yield the cache, the token (whether, never which), and what else than the default is set."""
    places = hub_places(subject.variables)
    yield _cache(places.cache)
    yield _token(subject.variables, places.token)
    if offline := is_offline(subject.variables):
        found = f"{offline}={subject.variables[offline]}: only what is cached"
        yield Finding("hub", found, "any", Verdict.OK)
    elif places.endpoint != ENDPOINT:
        yield Finding("hub", f"{places.endpoint} (HF_ENDPOINT)", "any", Verdict.OK)


def cache_is_writable(cache: Path) -> bool:
    """Whether the cache can be written, or made."""
    return os.access(next(folder for folder in (cache, *cache.absolute().parents) if folder.exists()), os.W_OK)


def _cache(cache: Path) -> Finding:
    what, needed = "Hugging Face cache", "a folder that can be written, to download models"
    fix = "export HF_HOME=FOLDER, one that this user may write to"
    above = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    if not above.is_dir():
        return Finding(what, f"{cache}: {above} is no folder", needed, Verdict.REFUSED, fix)
    if not cache_is_writable(cache):
        return Finding(what, f"{cache}: this user cannot write to it", needed, Verdict.WARNING, fix)
    return Finding(what, f"{cache}{'' if cache.is_dir() else ' (not made yet)'}", needed, Verdict.OK)


def _token(variables: Mapping[str, str], file: Path) -> Finding:
    what, needed = "Hugging Face token", "one for gated and private models"
    if name := next((name for name in _TOKENS if variables.get(name, "").strip()), ""):
        return Finding(what, f"set by {name}", needed, Verdict.OK)
    try:
        found = f"in {file}" if file.read_text(encoding="utf-8").strip() else ""
    except FileNotFoundError:
        found = ""
    except (OSError, UnicodeDecodeError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "it is no text"
        fix = f"make it readable, or log in again (`hf auth login` writes it): every question to the hub reads {file}"
        return Finding(what, f"{file}: {reason}", needed, Verdict.WARNING, fix)
    return Finding(what, found or "none: enough for open models", needed, Verdict.OK)


def _expand(path: str, variables: Mapping[str, str]) -> Path:
    """As os.path.expanduser and expandvars do, with the variables that are judged."""
    if path == "~" or path.startswith("~/"):
        path = variables.get("HOME", str(Path.home())) + path[1:]
    return Path(re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda name: variables.get(name[1] or name[2], name[0]), path))
