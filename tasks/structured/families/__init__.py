"""The schema families: things of everyday data, each with fields to choose from."""

from __future__ import annotations

from ..shapes import Family
from .learning import BOOK, COURSE, RECIPE
from .machines import CONFIG, DEVICE, SENSOR, TICKET
from .people import EVENT, MEMBER, PERSON, VISIT
from .trade import INVOICE, ORDER, PRODUCT, SHIPMENT
from .travel import FLIGHT, HOTEL, TOUR

_ALL = (
    ORDER, PRODUCT, INVOICE, SHIPMENT, SENSOR, DEVICE, CONFIG, TICKET, PERSON, MEMBER, EVENT, VISIT,
    BOOK, COURSE, RECIPE, FLIGHT, HOTEL, TOUR,
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
