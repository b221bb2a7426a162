"""Value files: a CSV with the value of each action in each state, and the rewards that follow from it."""

from tanren.common.values._boltzmann import REWARD_PREFIX, Comparison, compare_rewards, write_rewards
from tanren.common.values._commands import run_reward
from tanren.common.values._formulas import advantage, best_action, best_actions, boltzmann, regret
from tanren.common.values._rows import VALUES_KEY, prompt_messages, value_rows, values_of
from tanren.common.values._table import BEST_COLUMN, ID_COLUMN, PREFIX, ValueRow, ValueTable, finite_number, read_values

__all__ = [
    "BEST_COLUMN",
    "ID_COLUMN",
    "PREFIX",
    "REWARD_PREFIX",
    "VALUES_KEY",
    "Comparison",
    "ValueRow",
    "ValueTable",
    "advantage",
    "best_action",
    "best_actions",
    "boltzmann",
    "compare_rewards",
    "finite_number",
    "prompt_messages",
    "read_values",
    "regret",
    "run_reward",
    "value_rows",
    "values_of",
    "write_rewards",
]
