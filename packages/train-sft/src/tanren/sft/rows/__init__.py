"""Which rows a recipe trains on, how often each, and which are kept for the evaluation loss: settled before a token is made.

The sources are read twice: here, for what decides (a few bytes a row are kept), and again when samples are made.
"""

from ._effects import check_data
from ._phases import rows_by_phase
from ._select import Selection, select_rows
from ._sources import RowSource, listed_source, recipe_sources

__all__ = [
    "RowSource",
    "Selection",
    "check_data",
    "listed_source",
    "recipe_sources",
    "rows_by_phase",
    "select_rows",
]
