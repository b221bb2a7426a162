"""Machines and their software: sensor, device, configuration, ticket."""

from __future__ import annotations

from ..draw import clock, code, date, decimal, flag, integer, moment, one_of, phrase, text
from ..shapes import Family, Many
from .words import CITIES, COLORS, FULL_NAMES, MAILS, MOODS, NAMES, REMARKS, TAGS

_PLACE = {
    "city": text(*CITIES),
    "latitude": decimal(-90, 90, 4),
    "longitude": decimal(-180, 180, 4),
    "floor": integer(-2, 30),
}

SENSOR = Family(
    name="sensor",
    plural="sensors",
    brief={
        "id": integer(1, 99),
        "kind": one_of("heat", "light", "wind", "rain"),
        "value": decimal(-20, 40),
        "unit": one_of("C", "m", "kg", "lux"),
        "active": flag(),
        "room": text("hall", "lab", "roof", "yard", "attic"),
        "min": integer(-20, 0),
        "max": integer(10, 90),
        "city": text(*CITIES),
    },
    more={
        "serial": code("", 8),
        "measured_at": moment(),
        "battery": integer(0, 100),
        "offset": decimal(-2, 2, 3),
        "calibrated": date(),
        "remark": text(*REMARKS),
        "firmware": text("1.2.0", "2.0.1-beta", "v3"),
        "interval_s": integer(1, 3600),
    },
    parts={
        "location": _PLACE,
        "limits": {
            "low": decimal(-40, 0),
            "high": decimal(1, 120),
            "alarm": flag(),
            "delay_s": integer(0, 60),
        },
        "readings": Many({"time": moment(), "value": decimal(-40, 120, 2), "valid": flag()}),
        "history": Many(decimal(-40, 120)),
        "tags": Many(text(*TAGS)),
        "owners": Many({"name": text(*FULL_NAMES), "email": text(*MAILS)}),
    },
)

DEVICE = Family(
    name="device",
    plural="devices",
    brief={
        "id": integer(1, 99),
        "model": text("A1", "B2", "C3", "X5", "Z9"),
        "kind": one_of("phone", "laptop", "printer", "camera"),
        "ram": integer(2, 64),
        "owner": text(*NAMES),
        "active": flag(),
        "age": integer(0, 12),
        "color": text(*COLORS),
        "price": decimal(10, 99),
    },
    more={
        "mac": text("00:1a:2b:3c:4d:5e", "12:34:56:78:90:12", "a0:b1:c2:d3:e4:f5"),
        "host": phrase(("web", "db", "mail", "build"), ("one", "two", "three")),
        "bought": date(),
        "last_seen": moment(),
        "serial": code("", 8),
        "signal_dbm": integer(-95, -30),
        "encrypted": flag(),
        "warranty_months": integer(0, 60),
    },
    parts={
        "network": {
            "address": text("10.0.0.5", "192.168.1.20", "fe80::1"),
            "port": integer(20, 9000),
            "secure": flag(),
        },
        "system": {
            "name": text("Linux", "Windows", "macOS"),
            "version": text("22.04", "11", "12 LTS"),
            "updated": date(),
        },
        "disks": Many(
            {
                "name": code("disk", 2),
                "size_gb": integer(64, 4000),
                "used": decimal(0, 1, 3),
                "mount": text("/", "/home", "/data"),
            }
        ),
        "users": Many(text(*NAMES)),
        "ports": Many(integer(20, 9000)),
        "place": _PLACE,
    },
)

CONFIG = Family(
    name="config",
    plural="configs",
    brief={
        "name": text("app", "web", "api", "worker", "cache"),
        "port": integer(10, 99),
        "debug": flag(),
        "level": one_of("info", "warn", "error"),
        "workers": integer(1, 16),
        "mode": one_of("dev", "test", "live"),
        "retries": integer(0, 9),
        "timeout": decimal(0, 30),
        "host": text("alpha", "beta", "gamma", "delta"),
    },
    more={
        "version": text("1.0", "2.3.1", "0.9-rc1", "10"),
        "base_url": text("https://example.com/api", "http://localhost:8080"),
        "started": moment(),
        "path": text("/var/lib/app", "./out"),
        "template": text("a.txt", "list.html", "mail-2.txt"),
        "seed": integer(0, 2_000_000_000),
        "offset_minutes": integer(-720, 720),
        "maintenance": flag(),
    },
    parts={
        "database": {
            "host": text("db.example.com", "localhost"),
            "port": integer(1024, 65535),
            "user": text("admin", "reader", "service"),
            "pool": {"min": integer(1, 5), "max": integer(6, 50), "idle_s": decimal(0, 60)},
        },
        "log": {
            "level": one_of("debug", "info", "error"),
            "file": text("app.log", "logs/out.log"),
            "rotate": flag(),
            "at": clock(),
        },
        "features": Many(text("search", "export", "dark mode", "login", "sync")),
        "servers": Many(
            {
                "name": code("srv", 2),
                "weight": decimal(0, 1, 2),
                "region": one_of("eu", "us", "ap"),
                "backup": flag(),
            }
        ),
        "limits": {"memory_mb": integer(64, 8192), "cpu": decimal(0, 8), "requests": integer(1, 10_000)},
        "hosts": Many(text("a.example.com", "b.example.com")),
    },
)

TICKET = Family(
    name="ticket",
    plural="tickets",
    brief={
        "id": integer(1, 99),
        "title": text("bug", "crash", "typo", "slow page", "login"),
        "state": one_of("new", "open", "closed"),
        "votes": integer(0, 50),
        "owner": text(*NAMES),
        "urgent": flag(),
        "rank": integer(1, 5),
        "hours": decimal(0, 20),
        "team": text("web", "core", "mail", "shop"),
    },
    more={
        "opened": moment(),
        "due": date(),
        "summary": phrase(MOODS, ("button fails", "page is empty", "file is lost", "search hangs")),
        "version": text("1.4", "2.0.0", "3"),
        "reporter": text(*FULL_NAMES),
        "score_change": integer(-40, 40),
        "public": flag(),
        "branch": text("main", "fix/login", "release-2"),
    },
    parts={
        "contact": {"name": text(*FULL_NAMES), "email": text(*MAILS), "confirmed": flag()},
        "environment": {
            "system": text("Linux", "Windows", "Android"),
            "browser": text("Firefox", "Chrome"),
            "memory_gb": integer(2, 64),
        },
        "labels": Many(text(*TAGS)),
        "comments": Many({"by": text(*NAMES), "at": moment(), "text": text(*REMARKS), "likes": integer(0, 20)}),
        "related": Many(integer(1, 999)),
        "history": Many({"state": one_of("new", "open", "closed"), "date": date(), "by": text(*NAMES)}),
    },
)
