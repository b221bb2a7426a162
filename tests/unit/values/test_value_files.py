"""Value files: every fault is told with its line and column, and the rewards are those of the formulas."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal, getcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tanren.common.cli import _main
from tanren.common.command import run_command
from tanren.common.errors import UserError
from tanren.common.values import advantage, best_action, best_actions, boltzmann, read_values, regret

ROOT = Path(__file__).resolve().parents[3]
REAL = (
    "dynamic_co2_factor_hourly_3day_0414_to_0416_q_dataset_harmony.csv",
    "dynamic_co2_factor_hourly_3day_0505_to_0507_q_dataset_harmony.csv",
    "dynamic_co2_factor_hourly_3day_0519_to_0521_q_dataset_harmony.csv",
)
HEADER = "id,q_action_0,q_action_1,q_action_2\n"

Reward = Callable[..., tuple[int, str, str]]
values_of_a_state = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=8)


@pytest.fixture
def reward(capsys: pytest.CaptureFixture[str]) -> Reward:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(_main, ["reward", *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "values.csv"
        path.write_bytes(text.encode())
        return path

    return write


def _real(name: str) -> Path:
    for place in (ROOT.parent / "shared", ROOT.parent.parent / "shared"):
        if (place / "data" / "tes-q-dataset" / name).is_file():
            return place / "data" / "tes-q-dataset" / name
    pytest.skip("no shared/data/tes-q-dataset beside the checkout")


def test_formulas_against_forty_digits() -> None:
    getcontext().prec = 40
    values, tau = (-8.2239, -8.3733, -8.5267, -8.6789), 0.05
    weights = [(Decimal(repr(value)) / Decimal(repr(tau))).exp() for value in values]
    expected = [float(weight / sum(weights)) for weight in weights]
    assert boltzmann(values, tau) == pytest.approx(expected, abs=1e-13)
    assert advantage(values) == pytest.approx((0, -0.1494, -0.3028, -0.455), abs=1e-12)
    assert [regret(values, action) for action in range(4)] == pytest.approx([0, 0.1494, 0.3028, 0.455], abs=1e-12)
    assert best_action(values) == 0
    assert best_actions((1.0, 3.0, 3.0)) == (1, 2)


@given(values_of_a_state, st.floats(1e-3, 1e3), st.floats(-1e3, 1e3))
def test_boltzmann_rewards_are_a_distribution_that_no_shift_changes(
    values: list[float], tau: float, shift: float
) -> None:
    rewards = boltzmann(values, tau)
    assert math.fsum(rewards) == pytest.approx(1, abs=1e-12)
    assert all(0 <= reward <= 1 for reward in rewards)
    assert rewards[best_action(values)] == max(rewards)
    assert boltzmann([value + shift for value in values], tau) == pytest.approx(rewards, abs=1e-5)


def test_the_best_action_has_the_highest_reward_and_a_cost_would_not(file: Callable[[str], Path]) -> None:
    table = read_values(file(HEADER + "a,-1,-2,-3\n"))
    assert boltzmann(table.rows[0].values, 0.5)[0] > 0.8
    assert advantage(table.rows[0].values) == (0, -1, -2)


@pytest.mark.parametrize("name", REAL)
def test_the_old_rewards_come_out_to_1e_9(reward: Reward, name: str) -> None:
    code, out, _ = reward("boltzmann", str(_real(name)), "--tau", "0.05", "--check", "--json")
    found = json.loads(out)
    assert (code, found["rows"], found["actions"]) == (0, 30, 4)
    assert found["max_abs_difference"] < 1e-9
    if "0414" in name:
        assert found["best_action_counts"] == {"0": 18, "1": 4, "2": 0, "3": 8}
    code, out, _ = reward("boltzmann", str(_real(name)), "--tau", "0.1", "--check", "--json")
    assert code == 1
    assert json.loads(out)["max_abs_difference"] > 0.01


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id,q_action_0\na,1\n", "values.csv: the value column q_action_1 is missing: found q_action_0;"),
        ("id,x\na,1\n", "q_action_0 is missing: found none that begins with 'q_action_' among ['id', 'x']"),
        ("q_action_0,q_action_2\n1,2\n", "the value column q_action_1 is missing: found q_action_0, q_action_2"),
        ("q_action_0,q_action_1,q_action_best\n1,2,3\n", "q_action_best has no action's index behind"),
        (HEADER + "a,1,2,3\nb,1,nan,3\n", "values.csv:3: column q_action_1: found 'nan', expected a finite number"),
        (HEADER + "a,1,2,\n", "values.csv:2: column q_action_2: found '', expected a finite number"),
        (HEADER + "a,-inf,1e999,1_0\n", "column q_action_1: found '1e999'"),
        (HEADER + "a,1,2,3\nb,1,2,3\na,4,5,6\n", "values.csv:4: column id: 'a' is the row at"),
        (HEADER + " ,1,2,3\n", "column id: found nothing"),
        (HEADER + "a,1,2\n", "values.csv:2: found 3 cells, the first line names 4 columns"),
        (HEADER + 'a,"1,2,3\n', "values.csv:2: not CSV"),
        (HEADER, "holds no row"),
        (
            "q_action_0,q_action_1,optimal_action\n1,2,2\n",
            "column optimal_action: found '2', expected an action from 0 to 1",
        ),
        ("q_action_0,q_action_1,optimal_action\n1,2,1.0\n", "column optimal_action: found '1.0'"),
        ("q_action_0,q_action_1,optimal_action\n1,2,-1\n", "column optimal_action: found '-1'"),
        ("q_action_0,q_action_1,optimal_action\n1,2,0\n", "are these costs? turn their sign"),
    ],
)
def test_a_fault_is_told_with_line_and_column(
    reward: Reward, file: Callable[[str], Path], text: str, told: str
) -> None:
    path = file(text)
    code, out, err = reward("boltzmann", str(path), "--tau", "1", "--write")
    assert (code, out) == (2, "")
    assert told in err
    assert "Traceback" not in err
    assert path.read_bytes() == text.encode()


def test_faults_are_counted_to_the_end_and_the_first_ten_listed(file: Callable[[str], Path]) -> None:
    with pytest.raises(UserError) as caught:
        read_values(file(HEADER + "".join(f"r{n},1,x,3\n" for n in range(25))))
    assert len(str(caught.value).splitlines()) == 11
    assert str(caught.value).endswith("... and 15 more")


def test_an_optimal_action_may_be_any_of_those_that_tie(file: Callable[[str], Path]) -> None:
    table = read_values(file("q_action_0,q_action_1,optimal_action\n2,2,1\n"))
    assert best_action(table.rows[0].values) == 0
    assert table.rows[0].id == "values.csv:2"


def test_write_adds_columns_once_and_keeps_every_other_cell(reward: Reward, file: Callable[[str], Path]) -> None:
    path = file('\ufeffid,note,q_action_0,q_action_1\r\na,"two\nlines, ""quoted""",1.50,2\r\nb,,3,3\r\n')
    code, out, _ = reward("boltzmann", str(path), "--tau", "0.5", "--write", "--json")
    assert (code, json.loads(out)["written"], json.loads(out)["ties"]) == (0, True, 1)
    low = 1 / (1 + math.e)
    written = path.read_bytes().decode()
    assert written.startswith("\ufeffid,note,q_action_0,q_action_1,reward_action_0,reward_action_1\r\n")
    assert 'a,"two\nlines, ""quoted""",1.50,2,' in written
    assert written.endswith("\r\nb,,3,3,0.5,0.5\r\n")
    assert float(read_values(path).rows[0].cells["reward_action_0"]) == pytest.approx(low, abs=1e-15)
    inode = path.stat().st_ino
    assert reward("boltzmann", str(path), "--tau", "0.5", "--write")[0] == 0
    assert path.stat().st_ino == inode  # equal already: nothing was written
    code, _, err = reward("boltzmann", str(path), "--tau", "1", "--write")
    assert (code, "are left as they are" in err, path.read_bytes().decode() == written) == (1, True, True)
    assert reward("boltzmann", str(path), "--tau", "1", "--write", "--overwrite")[0] == 0
    assert path.read_bytes().decode() != written
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tau", "0"], "--tau 0: expected a temperature above 0"),
        (["--tau", "nan"], "--tau nan"),
        (["--tau", "1", "--check"], "there are none; --write adds them"),
        (["--tau", "1", "--check", "--write"], "take one of them"),
        (["--tau", "1", "--overwrite"], "--overwrite has no effect without --write"),
        (["--tau", "1", "--prefix", "v"], "v0 is missing"),
    ],
)
def test_a_mistake_in_the_command_is_told(
    reward: Reward, file: Callable[[str], Path], arguments: list[str], told: str
) -> None:
    code, _, err = reward("boltzmann", str(file(HEADER + "a,1,2,3\n")), *arguments)
    assert (code, told in err) == (2, True), err


def test_half_of_the_reward_columns_or_text_in_one_is_told(reward: Reward, file: Callable[[str], Path]) -> None:
    half = file("q_action_0,q_action_1,reward_action_0\n1,2,0.5\n")
    code, _, err = reward("boltzmann", str(half), "--tau", "1", "--check")
    assert (code, "without reward_action_1" in err) == (2, True)
    text = file("q_action_0,q_action_1,reward_action_0,reward_action_1\n1,2,0.5,NaN\n")
    code, _, err = reward("boltzmann", str(text), "--tau", "1", "--check")
    assert (code, "values.csv:2: column reward_action_1: found 'NaN'" in err) == (2, True)


def test_unknown_words_are_told(reward: Reward, tmp_path: Path) -> None:
    assert "did you mean boltzmann?" in reward("boltzman", "x.csv")[2]
    assert "no file" in reward("boltzmann", str(tmp_path / "no.csv"), "--tau", "1")[2]
    code, out, _ = reward()
    assert (code, "tanren reward boltzmann" in out) == (0, True)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom tanren.common.cli import _main\n"
        "try: _main(['reward', 'boltzmann', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'numpy', 'matplotlib', 'yaml'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
