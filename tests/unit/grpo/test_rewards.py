"""Rewards: exclusion, weights, and user code that raises, hangs, dies or lies, each in a real process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tanren.common.errors import UserError
from tanren.common.task_contract import Message, Row, Verdict
from tanren.common.task_packs import TaskPack, load_pack
from tanren.grpo.rewards import RewardConfig, Rewards, Scored, check_rewards

CODE = '''\
"""Rewards as a user might write them."""

import os
import subprocess
import sys
import time


def length(completions, rows):
    return [len(completion) for completion in completions]


def moody(completions, rows):
    """Does what each completion says."""
    rewards = []
    for completion in completions:
        if completion == "raise":
            raise ValueError("no such mood")
        if completion == "sleep":
            time.sleep(3600)
        if completion == "spin":
            while True:
                pass
        if completion == "die":
            os._exit(7)
        if completion == "kill":
            os.kill(os.getpid(), 9)
        if completion == "exit":
            sys.exit("enough")
        if completion == "print":
            print("seen: " + completion)
            os.write(1, b"raw\\n")
        special = {"none": None, "nan": float("nan"), "inf": float("inf"), "text": "1", "true": True}
        rewards.append(special.get(completion, 1.0))
    return rewards


def short(completions, rows):
    return [1.0] * (len(completions) - 1)


def text(completions, rows):
    return "1" * len(completions)


def spawns(completions, rows):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    open("child.pid", "w").write(str(process.pid))
    time.sleep(3600)


def counts_starts(completions, rows):
    with open("starts.txt", "a") as file:
        file.write(f"{os.getpid()}\\n")
    return [float(len(row.id)) for row in rows]


def terminated(completions, rows):
    """As a scheduler does it, to all processes of a job."""
    if not os.path.exists("terminated"):
        open("terminated", "w").close()
        os.kill(os.getpid(), 15)
        time.sleep(3600)
    return [1.0] * len(completions)


def slow_together(completions, rows):
    time.sleep(3600 if len(completions) > 1 else 0)
    return [1.0]


def first(completions, rows):
    return [row.metadata["gives"][0] for row in rows]


def second(completions, rows):
    return [row.metadata["gives"][1] for row in rows]


NOT_A_FUNCTION = 3
'''


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards")
    (path / "mine.py").write_text(CODE, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def folder(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Rewards]]:
    """Yield the processes of all tests: equal settings share one, as the steps of a run do."""
    rewards: dict[str, Rewards] = {}
    yield rewards
    for one in rewards.values():
        one.close()


@pytest.fixture
def scored(opened: dict[str, Rewards]) -> Callable[..., Scored]:
    """Return a function that scores completions of made-up rows with one reward or several, in a process of its own."""

    def score(
        settings: RewardConfig | list[RewardConfig],
        completions: list[str],
        *,
        pack: TaskPack | None = None,
        rows: list[Row] | None = None,
        made: dict[str, Any] | None = None,
        **more: Any,
    ) -> Scored:
        settings = settings if isinstance(settings, list) else [settings]
        key = f"{settings} {pack} {made}"
        if key not in opened:
            opened[key] = Rewards(settings, pack, **(made or {}))
        return opened[key](completions, rows or rows_of(len(completions)), **more)

    return score


@pytest.fixture
def shout(pack_folder: Path) -> TaskPack:
    return load_pack(f"{pack_folder}/")


def rows_of(count: int, **metadata: Any) -> list[Row]:
    return [Row(f"row-{n}", (Message("user", "?"),), "", "all", metadata=metadata) for n in range(count)]


def function(name: str, **more: Any) -> RewardConfig:
    return RewardConfig(kind="function", function=f"mine.py:{name}", **more)


def state(values: list[float]) -> list[Row]:
    return rows_of(8, action_values=values)


# --- adding and excluding ------------------------------------------------------------------------------------------------


def test_none_of_one_reward_excludes_the_completion_whatever_the_others_say(scored: Callable[..., Scored]) -> None:
    found = scored([function("moody"), function("length", weight=0.5)], ["a", "none", "bbbb", "true"])
    assert found.total == [1.5, None, 3.0, 3.0]
    assert found.columns == {"moody": [1.0, None, 1.0, 1.0], "length": [1.0, 4.0, 4.0, 4.0]}
    assert found.excluded_why == [None, "moody: not scorable", None, None]


def test_a_reward_of_weight_zero_is_logged_and_excludes_nothing(scored: Callable[..., Scored]) -> None:
    found = scored([function("moody", weight=0.0), function("length")], ["none", "aa"])
    assert found.total == [4.0, 2.0]
    assert found.columns["moody"] == [None, 1.0]
    assert found.excluded_why == [None, None]


@pytest.mark.parametrize(
    ("rule", "totals", "whys"),
    [
        ("exclude", [1.0, None, 3.0], [None, "truncated", None]),
        ("score", [1.0, 2.0, 3.0], [None, None, None]),
        (-0.25, [1.0, -0.25, 3.0], [None, None, None]),
    ],
)
def test_truncated_completions_are_excluded_scored_or_penalised(
    scored: Callable[..., Scored], rule: Any, totals: list[Any], whys: list[Any]
) -> None:
    found = scored(function("length"), ["a", "bb", "ccc"], truncated=[False, True, False], made={"truncated": rule})
    assert (found.total, found.excluded_why) == (totals, whys)
    assert found.columns["length"] == [1.0, 2.0 if rule == "score" else None, 3.0]


def test_excluded_completions_are_counted_by_what_excluded_them() -> None:
    with Rewards([function("moody")], None) as rewards:
        rewards(["a", "none", "none"], rows_of(3), truncated=[False, False, True])
        rewards(["none", "b", "b"], rows_of(3))
        assert rewards.excluded == {"moody": 2, "truncated": 1}


def test_the_packs_reward_and_parser_are_the_default(scored: Callable[..., Scored], shout: TaskPack) -> None:
    rows = shout.rows("train")
    found = scored(RewardConfig(), ["ASH", "OAK!", "elm", "  "], pack=shout, rows=rows)
    assert found.total == [1.0, 0.0, 0.0, 0.0]
    assert [judged.verdict for judged in found.judged if judged] == [
        Verdict.CORRECT,
        Verdict.WRONG,
        Verdict.UNPARSABLE,
        Verdict.ABSENT,
    ]


def test_an_invalid_penalty_stands_for_what_does_not_parse(scored: Callable[..., Scored], shout: TaskPack) -> None:
    settings = [RewardConfig(invalid_penalty=-0.5), RewardConfig(kind="parse", weight=0.25)]
    found = scored(settings, ["ASH", "OAK!", "elm", " "], pack=shout, rows=shout.rows("train"))
    assert found.columns == {"task": [1.0, 0.0, -0.5, -0.5], "parse": [1.0, 1.0, 0.0, 0.0]}
    assert found.total == [1.25, 0.25, -0.5, -0.5]


def test_a_length_penalty_falls_from_0_to_minus_1(scored: Callable[..., Scored]) -> None:
    settings = [
        function("length", weight=0.0),
        RewardConfig(kind="length", name="longer", free_tokens=10, limit_tokens=30),
    ]
    found = scored(settings, ["a"] * 5, tokens=[0, 10, 15, 30, 99])
    assert found.total == [0.0, 0.0, -0.25, -1.0, -1.0]


_GIVEN = st.none() | st.floats(-1e6, 1e6)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_GIVEN, _GIVEN, st.booleans()), min_size=1, max_size=12))
def test_a_total_is_the_weighted_sum_or_there_is_a_reason_for_none(
    scored: Callable[..., Scored], gives: list[tuple[float | None, float | None, bool]]
) -> None:
    rows = [Row(f"row-{n}", (), "", "all", metadata={"gives": give[:2]}) for n, give in enumerate(gives)]
    both = [function("first", weight=2.0), function("second", weight=-0.5)]
    found = scored(both, [""] * len(rows), rows=rows, truncated=[cut for _, _, cut in gives])
    for total, why, (one, two, cut) in zip(found.total, found.excluded_why, gives, strict=True):
        assert (total is None) == (why is not None) == (cut or one is None or two is None)
        if total is not None and one is not None and two is not None:
            assert total == math.fsum([2.0 * one, -0.5 * two])
        elif cut:
            assert why == "truncated"


# --- by action values ----------------------------------------------------------------------------------------------------


def test_rewards_by_the_values_of_a_state(scored: Callable[..., Scored]) -> None:
    settings = [
        RewardConfig(kind="boltzmann", tau=0.5),
        RewardConfig(kind="advantage"),
        RewardConfig(kind="accuracy"),
    ]
    completions = ["[0]", "Thus [0], no:\n[1]", "[2]", "[3]", "nothing"]
    found = scored(settings, completions, rows=state([-1.0, -1.5, -1.0])[:5])
    e = math.exp(-1)
    assert found.columns["boltzmann"] == [
        pytest.approx(1 / (2 + e)),
        pytest.approx(e / (2 + e)),
        pytest.approx(1 / (2 + e)),
        None,
        None,
    ]
    assert found.columns["advantage"] == [0.0, -0.5, 0.0, None, None]
    assert found.columns["accuracy"] == [1.0, 0.0, 1.0, None, None]
    assert found.excluded_why[3:] == [
        "boltzmann: found [3], expected an action from 0 to 2",
        "boltzmann: the last line has no [action]",
    ]
    assert [judged.action for judged in found.judged if judged] == [0, 1, 2, None, None]


def test_a_value_file_is_joined_by_id_and_a_row_without_values_is_told(
    scored: Callable[..., Scored], folder: Path
) -> None:
    file = folder / "q.csv"
    file.write_text("id,q_action_0,q_action_1\nrow-1,0,1\nrow-0,3,1\n", encoding="utf-8")
    rows = state([0.0, 0.0])
    settings = RewardConfig(kind="advantage", file=file)
    assert scored(settings, ["[0]", "[0]"], rows=rows[:2]).total == [0.0, -1.0]
    with pytest.raises(UserError, match=r"q\.csv has no row 'row-2'"):
        scored(settings, ["[0]"] * 3, rows=rows[:3])
    broken = folder / "broken.csv"
    broken.write_text("id,q_action_0,q_action_1\nrow-1,0,nan\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"broken\.csv:2: column q_action_1: found 'nan'"):
        scored(RewardConfig(kind="advantage", file=broken), ["[0]"])
    with pytest.raises(UserError, match=r"row row-0: metadata\.action_values is None"):
        scored(RewardConfig(kind="advantage"), ["[0]"])


def test_the_penalty_makes_invalid_actions_count(scored: Callable[..., Scored]) -> None:
    found = scored(RewardConfig(kind="advantage", invalid_penalty=-0.5), ["[1]", "no"], rows=state([1.0, 0.5])[:2])
    assert found.total == [-0.5, -0.5]


# --- code that fails -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mood", "told"),
    [
        ("raise", "raised ValueError: no such mood ("),
        ("exit", "raised SystemExit: enough ("),
        ("spin", "did not answer within 0.3 s"),
        ("die", "ended with exit code 7"),
        ("kill", "died (SIGKILL)"),
        ("nan", "returned nan"),
        ("inf", "returned inf"),
        ("text", "returned a str ('1')"),
    ],
)
def test_a_failing_reward_stops_with_its_name_row_and_completion(
    scored: Callable[..., Scored], mood: str, told: str
) -> None:
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        scored(function("moody", timeout_s=1.2), ["a", "b", mood, "c"])
    message = str(caught.value)
    assert message.startswith(f"the reward 'moody' {told}")
    assert f'at row row-2, completion "{mood}"' in message
    assert time.monotonic() - begun < 30  # twice 1.2 s and three starts; far from 3600 s
    if mood == "raise":
        assert "mine.py:18)" in message


@pytest.mark.parametrize("mood", ["raise", "sleep", "die", "nan", "text"])
def test_a_failing_reward_excludes_that_completion_alone(scored: Callable[..., Scored], mood: str) -> None:
    found = scored(function("moody", timeout_s=1.2, on_error="exclude"), ["a", mood, "b"])
    assert found.total == [1.0, None, 1.0]
    assert str(found.excluded_why[1]).startswith("moody: ")
    assert found.excluded_why[0] is None


def test_when_all_hang_the_time_is_bounded_and_what_was_not_asked_is_told(scored: Callable[..., Scored]) -> None:
    settings = function("moody", timeout_s=1.2, on_error="exclude")
    begun = time.monotonic()
    found = scored(settings, ["sleep"] * 40)
    assert time.monotonic() - begun < 20
    assert found.total == [None] * 40
    assert "was not asked: the 1.2 s were used up" in str(found.excluded_why[-1])
    assert scored(settings, ["a"]).total == [1.0]  # and the run goes on


def test_code_that_takes_the_process_down_each_time_is_not_loaded_for_every_completion(
    scored: Callable[..., Scored],
) -> None:
    found = scored(function("moody", timeout_s=1.2, on_error="exclude"), ["die"] * 12)
    assert found.total == [None] * 12
    assert found.excluded_why[0] == "moody: ended with exit code 7"
    assert found.excluded_why[-1] == "moody: was not asked: the process was started 9 times by those before it"


def test_sigterm_in_a_step_is_no_fault_of_the_reward(scored: Callable[..., Scored]) -> None:
    assert scored(function("terminated"), ["a", "b"]).total == [1.0, 1.0]


def test_a_batch_that_is_slow_only_together_is_told(scored: Callable[..., Scored]) -> None:
    told = "did not answer within 0.5 s for 2 completions together, although each one alone is answered"
    with pytest.raises(UserError, match=told):
        scored(function("slow_together", timeout_s=0.5), ["a", "b"])


def test_the_wrong_number_of_rewards_is_told(scored: Callable[..., Scored]) -> None:
    with pytest.raises(UserError, match="the reward 'short' returned 0 numbers for 1 completions, at row row-0"):
        scored(function("short"), ["a", "b", "c"])
    with pytest.raises(UserError, match="it returned a str \\('1'\\), expected a list with one number"):
        scored(function("text"), ["a", "b", "c"])


def test_what_a_killed_reward_had_started_ends_with_it(scored: Callable[..., Scored], folder: Path) -> None:
    with pytest.raises(UserError, match="did not answer within"):
        scored(function("spawns", timeout_s=1.0), ["a"])
    started = int((folder / "child.pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{started}").exists() or "\nState:\tZ" in Path(f"/proc/{started}/status").read_text():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the reward's own child is still running")


def test_the_process_is_started_once_and_kept(folder: Path) -> None:
    (folder / "starts.txt").unlink(missing_ok=True)
    with Rewards([function("counts_starts")], None) as rewards:
        for _ in range(3):
            assert rewards(["a"], rows_of(1)).total == [5.0]
    processes = (folder / "starts.txt").read_text().split()
    assert (len(processes), len(set(processes))) == (3, 1)
    assert not Path(f"/proc/{processes[0]}").exists()


def test_a_process_that_died_between_two_steps_is_started_again(folder: Path) -> None:
    (folder / "starts.txt").unlink(missing_ok=True)
    with Rewards([function("counts_starts")], None) as rewards:
        rewards(["a"], rows_of(1))
        idle = int((folder / "starts.txt").read_text())
        os.kill(idle, 9)
        while Path(f"/proc/{idle}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)
        assert rewards(["a"], rows_of(1)).total == [5.0]
    assert len(set((folder / "starts.txt").read_text().split())) == 2


def test_prints_go_to_the_log(scored: Callable[..., Scored], folder: Path) -> None:
    log = folder / "rewards.log"
    assert scored(function("moody"), ["print"], made={"log": log}).total == [1.0]
    assert log.read_text() == "seen: print\nraw\n"
    with pytest.raises(UserError, match=r"rewards\.log"):
        scored(function("moody"), ["raise"], made={"log": log})
    assert "Traceback" in log.read_text()


def test_a_trainer_that_is_killed_takes_the_process_with_it(folder: Path) -> None:
    """Also while the user's code sleeps for ever."""
    code = (
        "import os, threading\nfrom tanren.grpo.rewards import RewardConfig, Rewards\n"
        "from tanren.common.task_contract import Row\n"
        "rewards = Rewards([RewardConfig(kind='function', function='mine.py:moody', timeout_s=600)], None)\n"
        "threading.Timer(0.5, lambda: os.kill(os.getpid(), 9)).start()\n"
        "print(rewards._worker._process.pid, flush=True)\n"
        "rewards(['sleep'], [Row('r', (), '', 'all')])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == -9
    child = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            return
        time.sleep(0.05)
    os.kill(child, 9)
    pytest.fail("the process outlived its trainer")


def test_more_than_a_pipe_holds_goes_through(scored: Callable[..., Scored]) -> None:
    assert scored(function("length"), ["x" * 3_000_000, "y"]).total == [3_000_000.0, 1.0]


def test_a_row_that_cannot_be_handed_over_is_named(scored: Callable[..., Scored]) -> None:
    rows = [*rows_of(1), Row("odd", (), "", "all", expected=lambda: 1)]
    with pytest.raises(UserError, match="row odd: it cannot be handed to the process"):
        scored(function("length"), ["a", "b"], rows=rows)


def test_a_parser_that_fails_is_told_or_excluded(scored: Callable[..., Scored], pack_folder: Path) -> None:
    code = (pack_folder / "task.py").read_text()
    marked = code.replace(
        "    answer = completion.strip()\n", "    answer = completion.strip()\n    1 / (completion != 'BAD')\n"
    )
    (pack_folder / "task.py").write_text(marked, encoding="utf-8")
    pack = load_pack(f"{pack_folder}/")
    completions, rows = ["ASH", "BAD"], pack.rows("train")[:2]
    with pytest.raises(UserError, match="the parser raised ZeroDivisionError"):
        scored(RewardConfig(kind="parse"), completions, pack=pack, rows=rows)
    both = [RewardConfig(on_error="exclude", invalid_penalty=-1.0), RewardConfig(kind="parse")]
    found = scored(both, completions, pack=pack, rows=rows)
    assert found.total == [2.0, None]
    assert str(found.excluded_why[1]).startswith("task: the parser raised ZeroDivisionError")


# --- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"kind": "function"}, "function: found None, expected module:function"),
        ({"kind": "function", "function": "mine.py"}, "expected module:function, or path/file.py:function"),
        ({"kind": "function", "function": "os.system(1):x y"}, "expected module:function"),
        ({"kind": "task", "tau": 0.1}, "tau has no effect on a reward of the kind task, only on boltzmann"),
        ({"kind": "advantage", "timeout_s": 3}, "timeout_s has no effect on a reward of the kind advantage"),
        ({"kind": "boltzmann", "prefix": "v_"}, "prefix has no effect without file"),
        ({"kind": "length", "free_tokens": 9, "limit_tokens": 9}, "limit_tokens above free_tokens"),
        ({"kind": "length", "limit_tokens": 9}, "free_tokens: a length penalty needs it"),
        ({"kind": "parse", "invalid_penalty": 1.0}, "invalid_penalty has no effect"),
        ({"weight": math.inf}, "finite"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"wieght": 1}, "wieght"),
    ],
)
def test_a_setting_without_effect_or_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told.replace("(", r"\(").replace(")", r"\)")):
        RewardConfig.model_validate(values)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([RewardConfig()], "there is no task pack, whose reward this is"),
        ([function("length"), function("length")], r"rewards\.1 \(length\): another reward has this name"),
        ([function("length", weight=0.0)], "none has a weight other than 0"),
        ([RewardConfig(kind="boltzmann", file=Path("no.csv"))], "no file no.csv; paths are relative to"),
        ([RewardConfig(kind="function", function="no.py:x")], "no file no.py"),
        ([RewardConfig(kind="parse")], "there is no task pack to say so"),
    ],
)
def test_a_list_that_cannot_work_is_refused_before_anything_runs(settings: list[RewardConfig], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_rewards(settings, has_pack=False)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "mine.py:lenght",
            "lenght is not there; mine.py has counts_starts, first, length, moody, second, short, slow_together, spawns, terminated, text",
        ),
        ("mine.py:NOT_A_FUNCTION", "NOT_A_FUNCTION is a int"),
        ("no_such_module_here:f", "No module named 'no_such_module_here'"),
    ],
)
def test_a_function_that_is_not_there_is_told_at_the_start(scored: Callable[..., Scored], name: str, told: str) -> None:
    with pytest.raises(UserError, match="the rewards could not be loaded: ") as caught:
        scored(RewardConfig(kind="function", function=name), ["a"])
    assert told in str(caught.value)


def test_a_module_of_the_workspace_is_found_and_one_that_breaks_is_told(
    scored: Callable[..., Scored], folder: Path
) -> None:
    (folder / "my_rewards.py").write_text("from mine import length\n", encoding="utf-8")
    assert scored(RewardConfig(kind="function", function="my_rewards:length"), ["abc"]).total == [3.0]
    (folder / "broken.py").write_text("\n1 / 0\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"ZeroDivisionError: division by zero \(.*broken\.py:2\)"):
        scored(RewardConfig(kind="function", function="broken.py:length"), ["abc"])


def test_rewards_import_neither_torch_nor_transformers() -> None:
    code = "import sys, tanren.grpo.rewards; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
