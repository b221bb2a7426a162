"""What the trainers and the evaluator share: configuration, runs, console, models, chat rendering, task packs.

Importing this package is cheap on purpose: neither torch nor transformers is imported until a model is needed.
"""
