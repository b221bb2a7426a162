"""Trade: order, product, invoice, shipment."""

from __future__ import annotations

from ..draw import clock, code, date, decimal, flag, integer, moment, one_of, phrase, text
from ..shapes import Family, Many
from .words import (
    CITIES,
    COLORS,
    COUNTRIES,
    CURRENCIES,
    FULL_NAMES,
    GOODS,
    MAILS,
    MOODS,
    NAMES,
    PHONES,
    REMARKS,
    STREETS,
    TAGS,
)

_ADDRESS = {
    "street": text(*STREETS),
    "number": integer(1, 240),
    "city": text(*CITIES),
    "zip": code("", 5),
    "country": text(*COUNTRIES),
}

ORDER = Family(
    name="order",
    plural="orders",
    brief={
        "id": integer(1, 99),
        "name": text(*NAMES),
        "goods": text(*GOODS),
        "qty": integer(1, 20),
        "price": decimal(1, 30),
        "paid": flag(),
        "color": text(*COLORS),
        "state": one_of("new", "open", "sent", "done"),
        "city": text(*CITIES),
    },
    more={
        "date": date(),
        "total": decimal(5, 900, 2),
        "discount": decimal(-50, 0, 2),
        "currency": one_of(*CURRENCIES),
        "note": text(*REMARKS),
        "gift_wrap": flag(),
        "order_code": code("ORD-", 5),
        "placed_at": moment(),
    },
    parts={
        "customer": {"name": text(*FULL_NAMES), "email": text(*MAILS), "vip": flag(), "address": _ADDRESS},
        "delivery": {
            "method": one_of("post", "courier", "pickup"),
            "cost": decimal(0, 25, 2),
            "days": integer(1, 14),
        },
        "lines": Many(
            {
                "sku": code("", 4),
                "title": phrase(MOODS, GOODS),
                "qty": integer(1, 12),
                "unit_price": decimal(1, 99, 2),
            }
        ),
        "tags": Many(text(*TAGS)),
        "payments": Many({"method": one_of("card", "cash", "transfer"), "amount": decimal(1, 500, 2), "date": date()}),
        "coupons": Many(code("C", 4)),
    },
)

PRODUCT = Family(
    name="product",
    plural="products",
    brief={
        "id": integer(1, 99),
        "name": text(*GOODS),
        "price": decimal(1, 40),
        "stock": integer(0, 60),
        "color": text(*COLORS),
        "sale": flag(),
        "size": one_of("small", "medium", "large"),
        "weight": decimal(0, 9),
        "brand": text("Acme", "Nova", "Orion", "Delta", "Bolt"),
    },
    more={
        "sku": code("", 6),
        "description": phrase(MOODS, GOODS),
        "released": date(),
        "rating": decimal(1, 5),
        "reviews": integer(0, 25_000),
        "margin": decimal(-5, 60, 2),
        "discontinued": flag(),
        "supplier": text("North and Sons", "Blue Harbor", "Kita Trading", "Casa Verde"),
    },
    parts={
        "dimensions": {
            "width": decimal(1, 200),
            "height": decimal(1, 200),
            "depth": decimal(1, 200),
            "unit": one_of("cm", "mm"),
        },
        "maker": {"name": text(*FULL_NAMES), "country": text(*COUNTRIES), "address": _ADDRESS},
        "colors": Many(text(*COLORS)),
        "keywords": Many(text(*TAGS)),
        "variants": Many(
            {"code": code("V", 3), "color": text(*COLORS), "price": decimal(1, 90, 2), "in_stock": flag()}
        ),
        "ratings": Many(integer(1, 5)),
    },
)

INVOICE = Family(
    name="invoice",
    plural="invoices",
    brief={
        "id": integer(1, 99),
        "client": text(*NAMES),
        "total": decimal(5, 90),
        "paid": flag(),
        "tax": decimal(0, 9),
        "days": integer(7, 60),
        "type": one_of("sale", "rent", "work", "loan"),
        "city": text(*CITIES),
    },
    more={
        "number": code("2024-", 4),
        "issued": date(),
        "due": date(),
        "currency": one_of(*CURRENCIES),
        "balance": decimal(-400, 400, 2),
        "reminder_sent": flag(),
        "reference": text(*REMARKS),
        "account": code("", 10),
    },
    parts={
        "seller": {
            "name": text("Acme Ltd", "Nova GmbH", "Casa Verde", "Kita Trading"),
            "vat_id": code("DE", 9),
            "address": _ADDRESS,
        },
        "buyer": {"name": text(*FULL_NAMES), "email": text(*MAILS), "phone": text(*PHONES)},
        "positions": Many(
            {
                "text": phrase(MOODS, GOODS),
                "hours": decimal(0, 40),
                "rate": decimal(10, 150, 2),
                "taxable": flag(),
            }
        ),
        "notes": Many(text(*REMARKS)),
        "bank": {
            "name": text("First Bank", "City Bank", "Union Bank"),
            "iban": code("GB00TEST", 8),
            "bic": code("TEST", 4),
        },
    },
)

SHIPMENT = Family(
    name="parcel",
    plural="parcels",
    brief={
        "id": integer(1, 99),
        "to": text(*CITIES),
        "from": text(*CITIES),
        "kg": decimal(0, 30),
        "boxes": integer(1, 12),
        "sent": flag(),
        "owner": text(*NAMES),
        "speed": one_of("slow", "normal", "fast"),
    },
    more={
        "tracking": code("", 9),
        "carrier": text("Post", "Swift Cargo", "Blue Line", "Road and Rail"),
        "picked_up": moment(),
        "due": date(),
        "insured": flag(),
        "value": decimal(1, 2000, 2),
        "min_temperature": integer(-30, 5),
        "contents": phrase(MOODS, GOODS),
    },
    parts={
        "receiver": {"name": text(*FULL_NAMES), "phone": text(*PHONES), "address": _ADDRESS},
        "sender": {"name": text(*FULL_NAMES), "country": text(*COUNTRIES), "email": text(*MAILS)},
        "stops": Many({"city": text(*CITIES), "date": date(), "time": clock(), "scanned": flag()}),
        "labels": Many(text("fragile", "this side up", "keep dry", "keep cold")),
        "weights": Many(decimal(0, 30)),
    },
)
