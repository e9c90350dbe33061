"""The list of what runs in production: a CycloneDX document of our package and its dependencies, and a check of it.

The rule: it names the packages of ``requirements.lock`` and no others, so it is made from an environment that has
only these (`make sbom` makes one), and compared with the lock before it is written.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import streams
from deploy.local import ROOT

__all__ = ["main", "problems"]

NAME = "mailstreams"


def problems(bom: Any, lock: str) -> list[str]:
    """Return the differences between a document and a lock for this platform, one line each; empty if there are none."""
    wanted = {canonicalize_name(one.name): _version(one) for one in _locked(lock)}
    found = {canonicalize_name(one["name"]): one["version"] for one in bom["components"]}
    said = [f"{name}=={version} is locked and not named" for name, version in wanted.items() if name not in found]
    said += [f"{name}=={version} is named and not locked" for name, version in found.items() if name not in wanted]
    said += [
        f"{name}=={found[name]} is named, {version} is locked"
        for name, version in wanted.items()
        if found.get(name, version) != version
    ]
    said += [f"{one['name']} has no licence" for one in bom["components"] if not one.get("licenses")]
    linked = {one["ref"] for one in bom["dependencies"] if one.get("dependsOn")}
    root = bom["metadata"]["component"]
    if (root["name"], root.get("version")) != (NAME, streams.__version__) or root["bom-ref"] not in linked:
        said.append(f"it is not about {NAME} {streams.__version__} and what it depends on")
    return sorted(said)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document of an environment, unless it differs from the lock."""
    parser = argparse.ArgumentParser(prog="python -m deploy.sbom", description="Write what an environment holds.")
    parser.add_argument("python", type=Path, help="the environment's interpreter")
    parser.add_argument("output", type=Path, help="where the document goes")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "sbom.json"
        command = [sys.executable, "-m", "cyclonedx_py", "environment", options.python, "--output-file", made]
        command += ["--pyproject", ROOT / "pyproject.toml", "--output-reproducible", "--spec-version", "1.6"]
        subprocess.run(command, check=True)
        bom = json.loads(made.read_text())
    root = bom["metadata"]["component"]
    root["version"] = streams.__version__  # hatchling reads the version there, so pyproject.toml has none
    root["purl"] = f"pkg:pypi/{NAME}@{streams.__version__}"
    found = problems(bom, (ROOT / "requirements.lock").read_text())
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if not found:
        options.output.write_text(json.dumps(bom, indent=2) + "\n")
        print(f"{options.output}: {NAME} {streams.__version__} and {len(bom['components'])} packages")
    return 1 if found else 0


def _locked(lock: str) -> Iterator[Requirement]:
    """Yield the requirements of the lock for this platform."""
    for line in lock.splitlines():
        if line and line[0] not in " #":
            requirement = Requirement(line.removesuffix("\\"))
            if requirement.marker is None or requirement.marker.evaluate():
                yield requirement


def _version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    return specifier.version


if __name__ == "__main__":
    sys.exit(main())
