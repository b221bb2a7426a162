"""Rewards for GRPO: the task pack's, by action values, by form and length, and functions of the user, added by weight."""

from tanren.grpo.rewards._rewards import Judged, Rewards, Scored
from tanren.grpo.rewards._settings import RewardConfig, check_rewards

__all__ = ["Judged", "RewardConfig", "Rewards", "Scored", "check_rewards"]
