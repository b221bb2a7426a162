"""Data: sources of rows in every usual form, each row read and checked, and the payload of an answer."""

from tanren.common.data._column_rows import read_csv
from tanren.common.data._commands import run_data
from tanren.common.data._layouts import LAYOUTS, ROLES
from tanren.common.data._payload import FORMATS, payload_format, payload_of
from tanren.common.data._prompts import PROMPT
from tanren.common.data._records import Fault
from tanren.common.data._source import MOST_FAULTS, SUFFIXES, Source, read_rows, scan, settle

__all__ = [
    "FORMATS",
    "LAYOUTS",
    "MOST_FAULTS",
    "PROMPT",
    "ROLES",
    "SUFFIXES",
    "Fault",
    "Source",
    "payload_format",
    "payload_of",
    "read_csv",
    "read_rows",
    "run_data",
    "scan",
    "settle",
]
