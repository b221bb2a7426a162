"""The process that runs the code of rewards. Apart from `tanren.grpo.rewards`, so that it starts with few imports."""
