"""GRPO reinforcement learning: the command train-grpo."""
