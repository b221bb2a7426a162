"""The Python locks: complete, hashed, bound to no index, meeting every declared dependency, each for its own platform."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import lock_format
import lock_inputs
import pytest
import python_lock
from lock_format import Entry

from tanren.common.environments import Profile, read_profiles

from .conftest import ROOT

LOCKS = [*sorted((ROOT / "envs").glob("*/*.lock")), *sorted((ROOT / "envs").glob("*.lock"))]
PROFILES = {profile.name: profile for profile in read_profiles(ROOT)}
GPU = [profile for profile in PROFILES.values() if profile.cuda]
DEFAULT = ROOT / "envs" / "default"
# The addresses that a lock may hold: PyTorch's and vLLM's releases, for wheels that no index carries.
RELEASES = ("https://download.pytorch.org/whl/cu129/", "https://github.com/vllm-project/vllm/releases/download/")
# Hosts of package indexes, put together here so that this file does not hold them.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("debian", "org"))]


def entries(folder: Path) -> dict[str, Entry]:
    """The lock of an environment's folder, by package."""
    return {entry.name: entry for entry in lock_format.parse((folder / "requirements.lock").read_text())}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: str(path.relative_to(ROOT / "envs")))
def test_every_package_of_a_lock_has_its_hashes_and_no_index_is_named(path: Path) -> None:
    text = path.read_text()
    found = lock_format.parse(text)
    assert found
    assert all(entry.hashes for entry in found)
    assert re.findall(r"https?://\S+", text) == [e.address for e in found if e.address.startswith(RELEASES)]
    assert "index-url" not in text


def test_the_locks_fit_their_inputs_and_meet_every_declared_dependency() -> None:
    assert python_lock.problems(ROOT) == []


def test_a_dependency_that_the_lock_does_not_meet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"ours": ["ours-too", "numpy>=3", "nowhere"], "ours-too": []}
    monkeypatch.setattr(python_lock, "declared", lambda _root: needs)
    found = python_lock.unsatisfied(ROOT, [Entry("numpy", "2.4.6", "python_full_version < '3.12'", ("0" * 64,))])
    assert found == ["ours needs numpy>=3, and 2.4.6 is there", "ours needs nowhere, which is not there"]


def test_a_lock_that_was_made_from_other_inputs_is_found_and_comments_do_not_count(tmp_path: Path) -> None:
    envs, folder = tmp_path / "envs", tmp_path / "envs" / "b300"
    folder.mkdir(parents=True)
    for name in ("stack.in", "gpu.in", "overrides.in", "gpu-overrides.in", "b300/requirements.in", "b300/profile.toml"):
        (envs / name).write_text((ROOT / "envs" / name).read_text())
    before = lock_inputs.inputs_hash(tmp_path, folder)
    gpu = envs / "gpu.in"
    gpu.write_text("# another comment\n" + gpu.read_text().replace("0.50.2", "0.50.2  # why"))
    assert lock_inputs.inputs_hash(tmp_path, folder) == before
    gpu.write_text(gpu.read_text().replace("unsloth==", "unsloth>="))
    assert lock_inputs.inputs_hash(tmp_path, folder) != before


@pytest.mark.parametrize("profile", GPU, ids=lambda profile: profile.name)
def test_versions_that_are_tied_by_their_binary_interface_belong_together(profile: Profile) -> None:
    found = entries(profile.folder)
    local = f"+{profile.cuda.wheels}" if profile.cuda and profile.cuda.wheels == "cu129" else ""
    tied = {"torch": "2.11.0", "torchvision": "0.26.0", "torchaudio": "2.11.0", "vllm": "0.25.1"}
    assert {name: found[name].version for name in tied} == {name: version + local for name, version in tied.items()}
    # what those wheels declare with `==`
    assert {name: found[name].version for name in ("triton", "nvidia-cutlass-dsl")} == {
        "triton": "3.6.0",
        "nvidia-cutlass-dsl": "4.5.2",
    }
    assert found["flash-attn-4"].version == "4.0.0b19"
    assert "xformers" not in found
    assert not {"llm", "llama-cpp-python", "flash-attn"} & set(found)


@pytest.mark.parametrize("profile", GPU, ids=lambda profile: profile.name)
def test_a_gpu_lock_holds_the_libraries_of_one_cuda_only_and_no_second_toolkit(profile: Profile) -> None:
    found = entries(profile.folder)
    assert profile.cuda
    twelve = {name for name in found if name.endswith("-cu12")}
    assert bool(twelve) == (profile.cuda.toolkit == "12.9")
    thirteen = {"nvidia-cublas", "nvidia-cuda-runtime", "nvidia-nccl-cu13"} & set(found)
    assert bool(thirteen) == (profile.cuda.toolkit == "13.0")
    assert not {name for name in found if re.fullmatch(r"nvidia-(cuda-(nvcc|crt|cccl|tileiras)|nvvm)(-cu\d+)?", name)}


def test_the_gpu_locks_hold_one_set_of_versions() -> None:
    def common(profile: Profile) -> dict[str, str]:
        cuda = re.compile(r"^(nvidia-|cuda-(bindings|core|python|toolkit))")
        return {
            name: e.version.partition("+")[0] for name, e in entries(profile.folder).items() if not cuda.match(name)
        }

    assert common(PROFILES["train"]) == common(PROFILES["b300"]) == common(PROFILES["gh200"])


def test_the_cpu_lock_holds_the_same_trainers_as_the_gpu_locks() -> None:
    cpu, gpu = entries(DEFAULT), entries(PROFILES["b300"].folder)
    for name in (
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "mlflow",
        "tokenizers",
        "safetensors",
        "pydantic",
    ):
        assert cpu[name].version == gpu[name].version, name


def test_the_cuda_runtime_is_split_off_and_nothing_of_it_stays_in_the_base() -> None:
    base = set(entries(DEFAULT))
    runtime = {entry.name for entry in lock_format.parse((DEFAULT / "cuda-runtime.lock").read_text())}
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "triton"} <= runtime
    assert not base & runtime
    assert {name for name in base if name.startswith(("nvidia-", "cuda-", "triton"))} <= {"nvidia-ml-py"}
    assert {"torch", "transformers", "trl", "peft", "pytest", "ruff", "mypy", "hatchling"} <= base


def test_a_cuda_package_that_others_ask_for_stops_the_split() -> None:
    found = [Entry("nvidia-x", "1", "", ("0" * 64,), via=("torch",)), Entry("torch", "2", "", ("0" * 64,))]
    assert python_lock.split_cuda(found) == ([found[1]], [found[0]])
    with pytest.raises(python_lock.LockError, match="nvidia-x is asked for by \\['other'\\]"):
        python_lock.split_cuda([Entry("nvidia-x", "1", "", ("0" * 64,), via=("torch", "other"))])


def test_only_wheels_of_the_platform_enter_a_gpu_lock() -> None:
    def package(*names: str) -> dict[str, object]:
        wheels = [{"url": f"https://x/{name}", "hashes": {"sha256": str(i) * 64}} for i, name in enumerate(names)]
        return {"name": "a", "version": "1", "wheels": wheels}

    names = ("a-1-cp312-cp312-manylinux_2_28_aarch64.whl", "a-1-cp312-cp312-manylinux_2_35_aarch64.whl")
    entry = python_lock.wheels_of(package(*names, "a-1-cp313-cp313-manylinux_2_28_aarch64.whl"), PROFILES["gh200"])
    assert entry.hashes == ("0" * 64, "1" * 64)  # a machine with a newer glibc takes the second
    with pytest.raises(python_lock.LockError, match="a 1 has no wheel for x86_64-manylinux_2_31"):
        python_lock.wheels_of(package(*names), PROFILES["b300"])
    with pytest.raises(python_lock.LockError, match="no wheel for aarch64-manylinux_2_34"):
        python_lock.wheels_of(package(names[1]), PROFILES["gh200"])  # only for a newer glibc than the profile promises


def test_lock_makes_again_only_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import lock

    names = list(PROFILES)
    assert lock.stale(names) == []
    faults = ["envs/b300/requirements.lock: made from other inputs", "envs/uv.lock: e has no hash"]
    monkeypatch.setattr(python_lock, "problems", lambda _root: faults)
    assert lock.stale(names) == ["uv", "b300"]


def test_a_lock_reads_back_as_it_was_written() -> None:
    for entry in (
        Entry("a-b", "1.0", "sys_platform == 'linux'", ("a" * 64, "b" * 64)),
        Entry("c", "2.0+cu129", "", ("c" * 64,), address="https://x/c-2.0%2Bcu129-cp312-cp312-linux_x86_64.whl"),
    ):
        assert lock_format.parse(entry.text()) == [entry]
    with pytest.raises(ValueError, match="line 1"):
        lock_format.parse("something else")


def test_no_file_of_the_repository_names_a_package_index() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile("|".join(map(re.escape, HOSTS)).encode())
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(paths) > 20
    named = [str(path) for path in paths if path.is_file() and pattern.search(path.read_bytes())]
    assert named == []
