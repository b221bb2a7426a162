"""GRPO reinforcement learning: the command train-grpo. The trainer itself is not part of this version."""
