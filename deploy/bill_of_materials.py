"""The bill of materials, as CycloneDX 1.6: of what autoslim brings along in this environment, or of the image, before it is built; and
whether its licences were looked at.

    python deploy/bill_of_materials.py > bill.json
    python deploy/bill_of_materials.py --extras search,service,client --constraints deploy/constraints.txt > image.json
    python deploy/bill_of_materials.py --check

It reads the metadata of the installed packages, from what pyproject.toml names down: without the tools of development. The versions are
those that are installed or, with `--constraints`, those of that file, for the image's Python and system; its names are then all that is
needed, and no others. cyclonedx-bom would take all that is installed, and is one more package to install in CI.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import json
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
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


_IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.0",
    "python_version": "3.12",
    "sys_platform": "linux",
}
"""What markers are asked of for the constraints: those of the Dockerfile, for which `make constraints` finds the versions."""

Components = dict[str, tuple[Distribution, set[str]]]


class BillError(Exception):
    """The bill would be short or wrong: packages are not installed, or the constraints are of others."""


@functools.cache
def components(extras: frozenset[str] = EXTRAS, *, for_image: bool = False) -> Components:
    """By name, the installed packages and the names of those that each of them needs.

    What only other platforms or versions of Python need is left out, those of this one or of the image; as is, but for the image, what a
    dependency names and is not installed here.

    Raises:
        BillError: where autoslim or one of its direct dependencies is not installed, those of the `extras` included; for the image, where
            anything is not.
    """
    found: Components = {}
    pending, seen = [(ROOT, extras)], set[tuple[str, frozenset[str]]]()
    demanded, missing = {ROOT}, set[str]()
    markers = _IMAGE if for_image else {}
    while pending:
        name, own = pending.pop()
        if (name, own) in seen:
            continue
        seen.add((name, own))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            missing.add(name)
            continue
        needed = dict(_needed(_direct(own) if name == ROOT else package.requires or (), own, markers))
        if name == ROOT or for_image:
            demanded |= needed.keys()
        found.setdefault(name, (package, set()))[1].update(needed)
        pending += needed.items()
    if absent := sorted(demanded & missing):
        raise BillError(
            f"not installed, while pyproject.toml or what it names asks for them: {', '.join(absent)}; allowed: an environment with the "
            f"extras {', '.join(sorted(extras))}; next: make install, or pip install --editable '.[{','.join(sorted(extras))}]'"
        )
    return {name: (package, needs & found.keys() - {name}) for name, (package, needs) in sorted(found.items())}


def _direct(extras: frozenset[str]) -> list[str]:
    """From the checkout: an editable install keeps the requirements of the day on which it was made."""
    project = _project()
    named = [text for extra in sorted(extras) for text in project["optional-dependencies"][extra]]
    return [*project["dependencies"], *named]


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    return project


def _needed(
    requirements: Iterable[str], extras: frozenset[str], markers: Mapping[str, str]
) -> Iterator[tuple[str, frozenset[str]]]:
    wanted = dict[str, frozenset[str]]()
    for text in requirements:
        requirement = Requirement(text)
        # Without an extra, the marker's own is the empty one.
        if requirement.marker is None or any(requirement.marker.evaluate({**markers, "extra": extra}) for extra in {"", *extras}):
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


def problems(found: Components | None = None) -> list[str]:
    """Packages whose licence is not allowed, or not known, and that nobody has looked at."""
    return [
        f"{name} {package.version}: {licence_of(package) or 'no licence in its metadata'}"
        for name, (package, _) in (components() if found is None else found).items()
        if not is_allowed(licence_of(package)) and not any(fnmatch.fnmatch(name, pattern) for pattern in REVIEWED)
    ]


def read_pins(constraints: Path) -> dict[str, str]:
    """The versions that a file of constraints pins, by name."""
    lines = (line.partition("#")[0].strip() for line in constraints.read_text().splitlines())
    pins = (Requirement(line) for line in lines if line)
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def pinned_versions(found: Components, constraints: Path) -> dict[str, str]:
    """Of every component but autoslim, which is no dependency of its own.

    Raises:
        BillError: where the file lacks one of them, or has a package that none of them needs.
    """
    pins, needed = read_pins(constraints), found.keys() - {ROOT}
    if pins.keys() != needed:
        lacks, more = sorted(needed - pins.keys()), sorted(pins.keys() - needed)
        raise BillError(
            f"{constraints} is not of these extras: it lacks {', '.join(lacks) or 'nothing'}, and nothing needs "
            f"{', '.join(more) or 'none'} of it; allowed: all that they need, and no more; next: make constraints"
        )
    return pins


def bill(found: Components | None = None, pins: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`pins` are the versions, by name, where they are not the installed ones."""
    found = components() if found is None else found
    versions = {name: package.version for name, (package, _) in found.items()} | dict(pins or {})
    made = {name: _component(name, package, versions[name]) for name, (package, _) in found.items()}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": made[ROOT]},
        "components": [component for name, component in made.items() if name != ROOT],
        "dependencies": [
            {"ref": made[name]["bom-ref"], "dependsOn": sorted(made[need]["bom-ref"] for need in needs)}
            for name, (_, needs) in found.items()
        ],
    }


def _component(name: str, package: Distribution, version: str) -> dict[str, Any]:
    licence, reference = licence_of(package), f"pkg:pypi/{name}@{version}"
    # Only an SPDX expression may stand under that name.
    told = {"expression": licence} if package.metadata.get("License-Expression") else {"license": {"name": licence}}
    licences = {"licenses": [told]} if licence else {}
    # Licence and needs seldom change with a version, and whoever reads the bill can tell where they might have.
    other = (
        {"properties": [{"name": "autoslim:metadata-of-version", "value": package.version}]} if package.version != version else {}
    )
    kind = "application" if name == ROOT else "library"
    return {"type": kind, "bom-ref": reference, "name": name, "version": version, "purl": reference, **licences, **other}


def main() -> int:
    arguments = _parse()
    try:
        found = components(arguments.extras, for_image=arguments.constraints is not None)
        pins = None if arguments.constraints is None else pinned_versions(found, arguments.constraints)
    except BillError as error:
        print(error, file=sys.stderr)
        return 1
    if not arguments.check:
        print(json.dumps(bill(found, pins), indent=1))
        return 0
    unknown = problems(found)
    print("\n".join(unknown), file=sys.stderr)
    return int(bool(unknown))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--extras", type=_extras, default=EXTRAS, help="those of autoslim, with commas between them; default: all"
    )
    parser.add_argument(
        "--constraints", type=Path, help="a file of pinned versions: the bill is the image's, with these versions"
    )
    parser.add_argument(
        "--check", action="store_true", help="say which licences nobody has looked at, and exit with 1 if there are any"
    )
    return parser.parse_args()


def _extras(text: str) -> frozenset[str]:
    chosen, known = frozenset(text.split(",")), _project()["optional-dependencies"]
    if unknown := sorted(chosen - known.keys()):
        raise argparse.ArgumentTypeError(
            f"there is no extra {', '.join(map(repr, unknown))}; allowed: {', '.join(sorted(known))}"
        )
    return chosen


if __name__ == "__main__":
    sys.exit(main())
