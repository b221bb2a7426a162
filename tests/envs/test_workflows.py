"""The workflows and the container file: every environment is in them, and nothing comes from an unpinned place."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import manifest
import pytest
import yaml

from tanren.common.environments import read_profiles

from .conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ENVIRONMENTS: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "environments.yml").read_text())
PIXIW = (ROOT / "pixiw").read_text()
CONTAINERFILE = (ROOT / "envs" / "Containerfile").read_text()
RUNNERS = {"ubuntu-24.04": "x86_64", "ubuntu-24.04-arm": "aarch64", "macos-15": "arm64"}


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """All steps of a workflow."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_jobs_have_a_limit(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert [use for use in used if not re.search(r"@(v\d+\.\d+\.\d+|[0-9a-f]{40})$", use)] == []
    assert all(job["timeout-minutes"] <= 90 for job in workflow["jobs"].values())
    assert workflow["permissions"] == {"contents": "read"}


def test_every_environment_is_checked_on_every_machine_that_it_is_for() -> None:
    matrix = ENVIRONMENTS["jobs"]["environment"]["strategy"]["matrix"]["include"]
    checked = {(entry["environment"], RUNNERS[entry["os"]]) for entry in matrix}
    wanted = {(name, machine) for p in read_profiles(ROOT) for name in p.environments for machine in p.machines}
    assert checked == wanted
    platforms = {p.name: p for p in manifest.read(ROOT / "pixi.toml").platforms}
    for entry in matrix:  # the supposed driver is what the manifest's platform asks for
        features = manifest.read(ROOT / "pixi.toml").environments[entry["environment"]].features
        named = [name for f in features for name in manifest.read(ROOT / "pixi.toml").features[f].platforms or ()]
        cuda = {v.split("=")[1] for n in named for v in platforms[n].virtual_packages if v.startswith("__cuda")}
        assert ({entry["cuda"]} if "cuda" in entry else set()) == cuda


def test_the_workflow_uses_the_wrappers_pixi_and_only_tasks_that_there_are() -> None:
    version = re.search(r"^version=([0-9.]+)", PIXIW, re.MULTILINE)
    assert version
    setups = [step["with"] for step in steps(ENVIRONMENTS) if "setup-pixi" in step.get("uses", "")]
    assert len(setups) == 2
    assert all(setup["pixi-version"] == f"v{version[1]}" and setup["locked"] for setup in setups)
    tasks = set(tomllib.loads((ROOT / "pixi.toml").read_text())["tasks"]) | {"ptxas", "pytest", "tanren"}
    for step in steps(ENVIRONMENTS):
        for line in step.get("run", "").splitlines():
            if "pixi run" in line:
                words = shlex.split(line.partition("pixi run")[2])
                words = words[1:] if words[0] == "--locked" else words
                words = words[2:] if words[0] == "-e" else words
                assert words[0] in tasks, line


def test_the_workflow_and_the_container_import_the_whole_stack_as_the_environment_that_they_name() -> None:
    wanted = "--no-gpu --deep imports"
    assert f'tanren doctor --expect-env "$ENVIRONMENT" {wanted}' in [
        step["run"].partition(" -e ")[2].partition(" ")[2]
        for step in steps(ENVIRONMENTS)
        if "doctor" in step.get("run", "")
    ]
    assert f'tanren doctor --expect-env "${{ENVIRONMENT}}" {wanted}' in CONTAINERFILE


def test_the_container_is_made_from_pinned_parts() -> None:
    bases = re.findall(r"^ARG BASE=(\S+)", CONTAINERFILE, re.MULTILINE)
    assert len(bases) == 1
    assert re.fullmatch(r"docker\.io/library/ubuntu:24\.04@sha256:[0-9a-f]{64}", bases[0])
    named = re.findall(r"^FROM (\S+)", CONTAINERFILE, re.MULTILINE)
    assert named == ["${BASE}", "${BASE}", "pixi-${TARGETARCH}", "${BASE}"]
    added = re.findall(r"--checksum=sha256:([0-9a-f]{64}) \\\s+(\S+)", CONTAINERFILE)
    assert len(added) == 2
    version = re.search(r"^version=([0-9.]+)", PIXIW, re.MULTILINE)
    for digest, address in added:
        target = re.search(r"/v([0-9.]+)/pixi-(\S+)\.tar\.gz$", address)
        assert target
        assert version
        assert target[1] == version[1]
        assert f"name={target[2]}; sum={digest} ;;" in PIXIW
    assert "apt" not in CONTAINERFILE
    assert not CONTAINERFILE.startswith("# syntax=")  # a builder by a name that moves
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".pixi", ".venv"} <= set(ignored)


def test_the_supposed_driver_of_the_container_is_that_of_its_environment() -> None:
    default = dict(re.findall(r"^ARG (ENVIRONMENT|CUDA)=(\S+)", CONTAINERFILE, re.MULTILINE))
    workflow = ENVIRONMENTS["jobs"]["environment"]["strategy"]["matrix"]["include"]
    assert {"environment": default["ENVIRONMENT"], "cuda": default["CUDA"]}.items() <= next(
        entry for entry in workflow if entry["environment"] == default["ENVIRONMENT"]
    ).items()
