"""What pixi.toml says: platforms, features and environments, and what follows for each. Standard library only.

Meanings are those of pixi 0.77: https://pixi.prefix.dev/latest/reference/pixi_manifest/ and, for platforms with
virtual packages of their own, crates/pixi_manifest of https://github.com/prefix-dev/pixi. manifest.py reads the file.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field

# What pixi assumes of a machine where the manifest does not say more, in the order in which it writes them.
DEFAULTS = {
    "linux-64": ("__unix=0=0", "__linux=4.18", "__glibc=2.28", "__archspec=0=x86_64"),
    "linux-aarch64": ("__unix=0=0", "__linux=4.18", "__glibc=2.28", "__archspec=0=aarch64"),
    "osx-arm64": ("__unix=0=0", "__osx=13.0", "__archspec=0=m1"),
}
# Key of a platform -> virtual package, in the order in which pixi writes them.
DECLARABLE = {"cuda": "__cuda", "glibc": "__glibc", "linux": "__linux", "macos": "__osx"}
# Word of [target.WORD] -> how the subdirs begin that it stands for.
FAMILIES = {"linux": "linux-", "unix": "", "osx": "osx-", "macos": "osx-"}  # "": all that DEFAULTS has are unix


@dataclass(frozen=True)
class Platform:
    """One machine that is solved for: a conda subdir and what it has beyond pixi's defaults."""

    name: str
    subdir: str
    declared: tuple[str, ...] = ()
    """Virtual packages as the lock writes them: '__cuda=12.8'."""

    @property
    def virtual_packages(self) -> tuple[str, ...]:
        """The declared virtual packages, then the defaults that they do not replace."""
        names = {text.split("=")[0] for text in self.declared}
        return self.declared + tuple(text for text in DEFAULTS[self.subdir] if text.split("=")[0] not in names)

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two platforms the same, whatever their names: the subdir and all that is not default."""
        return identity(self.subdir, self.virtual_packages)


@dataclass(frozen=True)
class Task:
    """One task; the order of `depends_on` is the order in which they run."""

    command: str
    depends_on: tuple[str, ...]
    description: str


@dataclass(frozen=True)
class Part:
    """What a feature gives: to every platform, or (under [target]) to the platforms that its selector names."""

    dependencies: dict[str, str] = field(default_factory=dict)
    """Package -> the rest of its spec: '3.12.*', or '3.12.* *_cpython'."""
    tasks: dict[str, Task] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    """[activation.env]"""
    scripts: tuple[str, ...] = ()
    """[activation] scripts"""


@dataclass(frozen=True)
class Feature(Part):
    """One feature; the manifest's own top level is the feature 'default'."""

    platforms: tuple[str, ...] = ()
    """Names or subdirs; none for every platform of the workspace."""
    targets: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Environment:
    """One environment: its features, the default one last, and with whom it is solved."""

    features: tuple[str, ...]
    solve_group: str


@dataclass(frozen=True)
class Manifest:
    """pixi.toml."""

    channels: tuple[str, ...]
    """Addresses, each with a slash at its end."""
    requires_pixi: str
    platforms: tuple[Platform, ...]
    features: dict[str, Feature]
    environments: dict[str, Environment]

    def platforms_of(self, environment: str) -> list[Platform]:
        """The platforms of an environment: those that each of its features allows.

        A feature that says 'linux-64' allows every platform of that subdir, but where a platform is named exactly,
        the others of its subdir are out.
        """
        lists = [f.platforms for f in self._features(environment) if f.platforms]
        exact = {name for names in lists for name in names}
        taken = {p.subdir for p in self.platforms if p.name in exact}
        allowed = [p for p in self.platforms if all(p.name in names or p.subdir in names for names in lists)]
        return [p for p in allowed if p.name in exact or p.subdir not in taken]

    def specs(self, environment: str, platform: Platform) -> list[str]:
        """The specs that an environment asks for on a platform: a target overrides in its feature, features add up."""
        found: set[str] = set()
        for feature in self._features(environment):
            merged = dict(feature.dependencies)
            for selector, part in feature.targets.items():
                if selects(selector, platform):
                    merged |= part.dependencies
            found |= {f"{name} {spec}" for name, spec in merged.items()}
        return sorted(found)

    def solve_groups(self) -> list[list[str]]:
        """The environments that are solved together, in the manifest's order."""
        groups: dict[tuple[str, str], list[str]] = {}
        for name, environment in self.environments.items():
            key = ("group", environment.solve_group) if environment.solve_group else ("alone", name)
            groups.setdefault(key, []).append(name)
        return list(groups.values())

    def lock_names(self) -> dict[str, str]:
        """Platform -> its name in pixi.lock: the subdir's own, else p1, p2, ... in the order of declaration."""
        named = [p.name for p in self.platforms if p.name != p.subdir]
        return {p.name: p.name if p.name == p.subdir else f"p{named.index(p.name) + 1}" for p in self.platforms}

    def _features(self, environment: str) -> list[Feature]:
        return [self.features[name] for name in self.environments[environment].features]


def identity(subdir: str, virtual_packages: Iterable[str]) -> tuple[str, ...]:
    """What two platforms must share to be the same: the subdir and the virtual packages that are not its defaults."""
    return (subdir, *sorted(set(virtual_packages) - set(DEFAULTS.get(subdir, ()))))


def selects(selector: str, platform: Platform) -> bool:
    """Whether [target.SELECTOR] is for the platform: a family, a subdir, a name, or a name with asterisks."""
    if selector in FAMILIES:
        return platform.subdir.startswith(FAMILIES[selector])
    return selector == platform.subdir or fnmatch.fnmatchcase(platform.name, selector)
