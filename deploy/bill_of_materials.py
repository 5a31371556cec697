"""The bill of materials: what autoslim brings along in this environment, as CycloneDX 1.6, and whether its licences were looked at.

    python deploy/bill_of_materials.py > bill.json
    python deploy/bill_of_materials.py --check

It reads the metadata of the installed packages, from what pyproject.toml names down: without the tools of development, and with the
versions that are there. cyclonedx-bom would take all that is installed, and is one more package to install in CI.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT, EXTRAS = "autoslim", frozenset({"all"})

_ALLOWED = re.compile(
    r"0BSD|Apache[- .\w]*|BSD[- .\w]*|[23]-Clause BSD License|BSL-1\.0|CC0-1\.0|ISC[- .\w()]*|LLVM-exception|MIT[- .\w]*|"
    r"Mozilla Public License 2\.0 \(MPL 2\.0\)|MPL-2\.0|PSF-2\.0|Python Software Foundation License|Unlicense|Zlib",
    re.IGNORECASE,
)
"""Licences under which a library may be used and shipped with anything, as SPDX, trove and packages name them."""

REVIEWED = {
    "psycopg": "LGPL-3.0: used as it is, as a library that can be replaced",
    "psycopg-binary": "LGPL-3.0: used as it is, as a library that can be replaced",
    "nvidia-*": "NVIDIA's: part of torch's default build, which may be shipped in an image; not there with DEVICE=cpu",
    "cuda-toolkit": "NVIDIA's: names the packages above; its metadata has no licence",
    "iopath": "MIT, in words of its own. Of fvcore",
    "huey": "MIT by its repository; its metadata has no licence. Of MLflow's server",
    "skops": "MIT by its repository; its metadata says that it is approved by the OSI. Of MLflow",
}
"""Packages, or patterns of them, whose metadata does not say it all, with what is known of them."""


class MissingPackagesError(Exception):
    """Packages that pyproject.toml names are not installed, without which the bill would be short."""


@functools.cache
def components() -> dict[str, tuple[Distribution, set[str]]]:
    """By name, the installed packages and the names of those that each of them needs.

    What only other platforms or versions of Python need is left out, as is what a dependency names and is not installed here.

    Raises:
        MissingPackagesError: where autoslim or one of its direct dependencies is not installed, those of the extra `all` included.
    """
    found: dict[str, tuple[Distribution, set[str]]] = {}
    pending, seen = [(ROOT, EXTRAS)], set[tuple[str, frozenset[str]]]()
    direct, missing = {ROOT}, set[str]()
    while pending:
        name, extras = pending.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        needed = dict(_needed(_direct(extras) if name == ROOT else package.requires or (), extras))
        if name == ROOT:
            direct |= needed.keys()
        found.setdefault(name, (package, set()))[1].update(needed)
        pending += needed.items()
    if absent := sorted(direct & missing):
        raise MissingPackagesError(
            f"not installed, while pyproject.toml names them: {', '.join(absent)}; allowed: an environment with the extra `all`; "
            "next: make install, or pip install --editable '.[all]'"
        )
    return {name: (package, needs & found.keys() - {name}) for name, (package, needs) in sorted(found.items())}


def _direct(extras: frozenset[str]) -> list[str]:
    """From the checkout: an editable install keeps the requirements of the day on which it was made."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    named = [text for extra in sorted(extras) for text in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *named]


def _needed(requirements: Iterable[str], extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    wanted = dict[str, frozenset[str]]()
    for text in requirements:
        requirement = Requirement(text)
        # Without an extra, the marker's own is the empty one.
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            name = canonicalize_name(requirement.name)
            wanted[name] = wanted.get(name, frozenset()) | requirement.extras
    yield from wanted.items()


def licence_of(package: Distribution) -> str:
    """SPDX's expression, or else the trove classifiers, or else the field `License` where that is a name and no text; empty for none."""
    fields = package.metadata
    if expression := fields.get("License-Expression"):
        return str(expression)
    classifiers = [text.rpartition(" :: ")[2] for text in fields.get_all("Classifier") or () if text.startswith("License :: ")]
    if named := [text for text in classifiers if text != "OSI Approved"]:
        return " OR ".join(named)
    text = str(fields.get("License") or "").strip()
    return text if len(text) <= 60 and "\n" not in text and text != "UNKNOWN" else ""


def is_allowed(licence: str) -> bool:
    """Whether every part of it is, alternatives included."""
    parts = re.split(r" (?:AND|OR|WITH) ", licence, flags=re.IGNORECASE)
    return bool(licence) and all(_ALLOWED.fullmatch(part.strip()) for part in parts)


def problems() -> list[str]:
    """Packages whose licence is not allowed, or not known, and that nobody has looked at."""
    return [
        f"{name} {package.version}: {licence_of(package) or 'no licence in its metadata'}"
        for name, (package, _) in components().items()
        if not is_allowed(licence_of(package)) and not any(fnmatch.fnmatch(name, pattern) for pattern in REVIEWED)
    ]


def bill() -> dict[str, Any]:
    found = components()
    root, _ = found[ROOT]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": _component(ROOT, root, "application")},
        "components": [_component(name, package, "library") for name, (package, _) in found.items() if name != ROOT],
        "dependencies": [
            {"ref": _reference(name, package), "dependsOn": sorted(_reference(need, found[need][0]) for need in needs)}
            for name, (package, needs) in found.items()
        ],
    }


def _component(name: str, package: Distribution, kind: str) -> dict[str, Any]:
    licence, reference = licence_of(package), _reference(name, package)
    # Only an SPDX expression may stand under that name.
    told = {"expression": licence} if package.metadata.get("License-Expression") else {"license": {"name": licence}}
    licences = {"licenses": [told]} if licence else {}
    return {"type": kind, "bom-ref": reference, "name": name, "version": package.version, "purl": reference, **licences}


def _reference(name: str, package: Distribution) -> str:
    return f"pkg:pypi/{name}@{package.version}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="say which licences nobody has looked at, and exit with 1 if there are any"
    )
    check = parser.parse_args().check
    try:
        if not check:
            print(json.dumps(bill(), indent=1))
            return 0
        found = problems()
    except MissingPackagesError as error:
        found = [str(error)]
    print("\n".join(found), file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
