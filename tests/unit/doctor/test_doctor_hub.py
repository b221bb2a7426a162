"""The doctor on the Hugging Face hub: where the library looks, whether there is a token, and that none is ever shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tanren.common.doctor import Subject, Verdict
from tanren.common.doctor import _hub as hub
from tanren.common.doctor._hub import check_hub, hub_places, is_offline

from .conftest import by_name

SECRET = "hf_aVerySecretToken"
LIBRARY = """
import json
from huggingface_hub import constants as c
print(json.dumps([c.HF_HUB_CACHE, c.HF_TOKEN_PATH, c.ENDPOINT, c.HF_HUB_OFFLINE]))
"""


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"HF_HOME": "/data/hf", "XDG_CACHE_HOME": "/elsewhere"},
        {"XDG_CACHE_HOME": "~/quick", "TRANSFORMERS_OFFLINE": "yes"},
        {"HF_HUB_CACHE": "$SCRATCH/hub", "SCRATCH": "/scratch/me", "HF_TOKEN_PATH": "~/token", "HF_HUB_OFFLINE": "0"},
        {"HUGGINGFACE_HUB_CACHE": "${SCRATCH}/old", "SCRATCH": "/s", "HF_HUB_OFFLINE": "on"},
        {"HF_ENDPOINT": "https://mirror.example/hf/", "HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": "1"},
    ],
)
def test_the_places_are_the_librarys_own(variables: dict[str, str]) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE", "XDG_"))}
    own = {**own, "HOME": "/home/smith", **variables}
    done = subprocess.run([sys.executable, "-c", LIBRARY], env=own, capture_output=True, text=True, check=True)
    cache, token, endpoint, offline = json.loads(done.stdout)
    places = hub_places(own)
    assert (places.cache, places.token, places.endpoint) == (Path(cache), Path(token), endpoint)
    assert bool(is_offline(own)) is offline


def on(subject: Subject, **variables: str) -> Subject:
    """Return the subject with these variables and no others."""
    return replace(subject, variables=variables)


def test_a_token_is_found_and_never_shown(cpu_subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET, encoding="utf-8")
    for variables, where in (
        ({"HF_HOME": str(tmp_path)}, f"in {tmp_path / 'token'}"),
        ({"HF_HOME": str(tmp_path), "HF_TOKEN": SECRET}, "set by HF_TOKEN"),
        ({"HF_HOME": "/none", "HUGGING_FACE_HUB_TOKEN": SECRET}, "set by HUGGING_FACE_HUB_TOKEN"),
        ({"HF_HOME": "/none", "HF_TOKEN": " "}, "none: enough for open models"),
    ):
        rows = by_name(check_hub(on(cpu_subject, **variables)))
        assert (rows["Hugging Face token"].found, rows["Hugging Face token"].verdict) == (where, Verdict.OK)
        assert "aVery" not in repr(rows)


def test_a_token_file_that_cannot_be_read_is_a_warning(cpu_subject: Subject, tmp_path: Path) -> None:
    (tmp_path / "token").mkdir()
    finding = by_name(check_hub(on(cpu_subject, HF_HOME=str(tmp_path))))["Hugging Face token"]
    assert finding.verdict is Verdict.WARNING
    assert "Is a directory" in finding.found


def test_the_cache_is_judged(cpu_subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def row() -> tuple[Verdict, str]:
        finding = by_name(check_hub(on(cpu_subject, HF_HOME=str(tmp_path / "hf"))))["Hugging Face cache"]
        return finding.verdict, finding.found

    assert row() == (Verdict.OK, f"{tmp_path / 'hf' / 'hub'} (not made yet)")
    with monkeypatch.context() as patch:
        patch.setattr(hub, "cache_is_writable", lambda _: False)
        assert row()[0] is Verdict.WARNING
    (tmp_path / "hf").write_text("", encoding="utf-8")
    assert row()[0] is Verdict.REFUSED


def test_what_is_set_besides_is_said(cpu_subject: Subject) -> None:
    assert "hub" not in by_name(check_hub(on(cpu_subject, HF_HUB_OFFLINE="0")))
    assert by_name(check_hub(on(cpu_subject, TRANSFORMERS_OFFLINE="1")))["hub"].found.startswith(
        "TRANSFORMERS_OFFLINE=1"
    )
    assert "mirror.example" in by_name(check_hub(on(cpu_subject, HF_ENDPOINT="https://mirror.example")))["hub"].found
