"""The old staged trainer's .env files, turned into a recipe: strictly, and with every difference told."""

from ._recipe import import_env

__all__ = ["import_env"]
