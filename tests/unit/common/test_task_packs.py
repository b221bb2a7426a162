"""Task packs: a small complete one, and what a broken one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Verdict
from tanren.common.task_packs import known_packs, load_pack


def _refusal(name: str | Path, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load_pack(str(name), options).rows("train")
    return str(caught.value)


def test_a_pack_in_any_folder_gives_rows_and_judges(pack_folder: Path) -> None:
    pack = load_pack(str(pack_folder), {"count": 2})
    train, heldout = pack.rows("train"), pack.rows("heldout")
    assert [row.id for row in train] == ["train-ash", "train-oak"]
    assert [row.group for row in heldout] == ["short", "long"]
    assert train[0].messages == (Message("user", "ash"), Message("assistant", "ASH"))
    verdicts = [pack.parse(text, train[0]).verdict for text in ("", "ash", "OAK", " ASH\n")]
    assert verdicts == [Verdict.ABSENT, Verdict.UNPARSABLE, Verdict.WRONG, Verdict.CORRECT]
    assert pack.module.reward(["ASH", "ASH"], train) == [1.0, 0.0]
    assert (pack.description.title, pack.folder) == ("Words in capitals", pack_folder.resolve())


def test_options_have_defaults_and_two_packs_of_one_name_stay_apart(pack_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "shout"
    other.mkdir(parents=True)
    for path in pack_folder.glob("*.*"):
        (other / path.name).write_text(path.read_text().replace("count: int = 4", "count: int = 1"), encoding="utf-8")
    assert len(load_pack(str(pack_folder)).rows("train")) == 4
    assert len(load_pack(str(other)).rows("train")) == 1


def test_an_unknown_pack_is_told_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pack_folder: Path
) -> None:
    assert "unknown task pack 'structurd': did you mean 'structured'?" in _refusal("structurd")
    assert "no task pack at" in _refusal(tmp_path / "nowhere")
    (tmp_path / "pixi.toml").touch()
    (tmp_path / "tasks").mkdir()
    pack_folder.rename(tmp_path / "tasks" / "shout")
    monkeypatch.setenv("PIXI_PROJECT_ROOT", str(tmp_path))
    assert known_packs()["shout"] == tmp_path / "tasks" / "shout"
    assert "known packs: " in _refusal("zzz")
    assert load_pack("shout").rows("train")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = ", "is not valid TOML"),
        ("name = 'shout'", "licence: found"),
        ("licens = 'MIT'", "unknown key 'licens': did you mean 'licence'?"),
    ],
)
def test_a_broken_description_is_told_with_its_file(pack_folder: Path, text: str, told: str) -> None:
    (pack_folder / "task.toml").write_text(text, encoding="utf-8")
    message = _refusal(pack_folder)
    assert str(pack_folder / "task.toml") in message
    assert told in message


@pytest.mark.parametrize("missing", ["rows", "parse", "reward", "Options"])
def test_a_missing_function_is_told(pack_folder: Path, missing: str) -> None:
    path = pack_folder / "task.py"
    path.write_text(path.read_text(encoding="utf-8") + f"\n\ndel {missing}\n", encoding="utf-8")
    assert f"task.py has no {missing!r}" in _refusal(pack_folder)


def test_a_folder_without_code_is_told(pack_folder: Path) -> None:
    (pack_folder / "task.py").unlink()
    assert "no task.py" in _refusal(pack_folder)


def test_an_unknown_option_is_told_with_the_nearest_known_one(pack_folder: Path) -> None:
    message = _refusal(pack_folder, coumt=3)
    assert message == "options of the task pack shout: unknown key 'coumt': did you mean 'count'?"
    assert "count: found 'many'" in _refusal(pack_folder, count="many")


def test_options_that_do_not_fit_together_are_told_without_an_empty_key() -> None:
    message = _refusal("structured", formats=["json"], sources=["json"])
    assert message.startswith("options of the task pack structured: sources: found json alone")
    assert "\n" not in message


def test_a_row_id_that_occurs_twice_is_told(pack_folder: Path) -> None:
    (pack_folder / "words.py").write_text('WORDS = ["ash", "ash"]\n', encoding="utf-8")
    assert "the row id 'train-ash' occurs twice" in _refusal(pack_folder)
