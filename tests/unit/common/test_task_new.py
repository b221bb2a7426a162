"""`tanren task new`: the skeleton passes its own test and is ready to train; what cannot be made is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
TANREN = "tanren.common.cli"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Any]) -> Path:
    """Return the folder of a pack that the command made, in a folder that is no workspace's."""
    folder = tmp_path_factory.mktemp("packs")
    done = command(TANREN, "task", "new", "my_orders", "--dir", str(folder))
    assert done.code == 0, done.err
    assert done.heavy == ""
    for part in ("generate.py", "prompts.py", "judge.py", "tanren task check", "train-sft"):
        assert part in done.out
    return folder / "my_orders"


def test_the_skeleton_passes_its_own_test(made: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(made / "tests")],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


def test_its_quickstart_is_ready_to_train(made: Path, command: Callable[..., Any]) -> None:
    done = command("tanren.sft.cli", str(made / "recipes" / "quickstart.toml"), "--dry-run")
    assert done.code == 0, done.err
    assert "# train_rows: 160" in done.out
    assert "# steps: 20" in done.out


def test_nothing_of_the_skeletons_own_name_is_left(made: Path) -> None:
    for path in made.rglob("*.*"):
        if path.is_file() and path.suffix != ".pyc":
            text = path.read_text(encoding="utf-8")
            assert "skeleton" not in text + path.name
    assert (made / "tests" / "test_my_orders.py").is_file()
    assert 'name = "my_orders"' in (made / "task.toml").read_text(encoding="utf-8")


def test_its_code_keeps_the_style_of_the_workspace(made: Path) -> None:
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments, "--config", str(ROOT / "pyproject.toml"), str(made)],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        # The folder's place decides which imports ruff takes for the workspace's own, and tests need no docstrings there.
        assert done.returncode == 0, done.stdout


def test_a_pack_that_is_there_is_not_touched(made: Path, command: Callable[..., Any]) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*.toml")}
    done = command(TANREN, "task", "new", "my_orders", "--dir", str(made.parent))
    assert done.code == 2
    assert f"{made} is there already: nothing was changed" in done.err
    assert {path: path.read_bytes() for path in made.rglob("*.toml")} == before


@pytest.mark.parametrize(
    ("name", "proposed"),
    [("My-Orders", "my_orders"), ("2nd", "task_2nd"), ("class", "task_class"), ("受注", "task"), ("../up", "up")],
)
def test_a_name_that_cannot_be_one_is_told_with_one_that_can(
    name: str, proposed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tanren.common.errors import UserError
    from tanren.common.task_command import run_task

    with pytest.raises(UserError, match=rf"write {proposed}$"):
        run_task(["new", name, "--dir", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_in_the_workspace_the_pack_is_found_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tanren.common.errors import UserError
    from tanren.common.task_command import run_task
    from tanren.common.task_packs import load_pack

    (tmp_path / "pixi.toml").touch()
    (tmp_path / "tasks").mkdir()
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run_task(["new", "orders"]) == 0
    assert "./pixiw run train-sft tasks/orders/recipes/quickstart.toml" in capsys.readouterr().out
    assert 'name = "orders"\n' in (tmp_path / "tasks" / "orders" / "recipes" / "quickstart.toml").read_text()
    assert len(load_pack("orders").rows("heldout")) == 100
    with pytest.raises(UserError, match="no such folder; make it first"):
        run_task(["new", "other", "--dir", str(tmp_path / "nowhere")])
