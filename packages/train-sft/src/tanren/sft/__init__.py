"""Supervised fine-tuning: the command train-sft."""
