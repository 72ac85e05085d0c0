"""The tag of every image, computed from what the image is made of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from packaging.requirements import InvalidRequirement, Requirement

DOCUMENTATION = """
name: image_tags
author: Moodle Lakehouse contributors
short_description: Tags of the project's images
description:
  - Returns a dictionary from an image's name to its full tag C(lakehouse/NAME:HASH).
  - The hash covers the image's inputs as compose/docker-bake.hcl names them. These are the text of its target, the values of the
    variables named there, the files of its local contexts, the hashes of its C(target:) contexts, the users' ids and, at
    the bottom of every chain, the root file system's recipe and the extra CA certificates. The same inputs give the same tag on every machine.
  - Templates (*.j2), tests, notes and caches are no inputs.
options:
  uids:
    description: Names and ids of the services' users. Taken from the variable C(lakehouse_uids) when not given.
    type: dict
  extra_cas:
    description: Files and folders with CA certificates (*.crt) on the controller that the images trust.
    type: list
    elements: str
    default: [/usr/local/share/ca-certificates]
  refresh:
    description: Any text. A new one gives new tags, and so images with today's Debian packages.
    type: str
    default: ""
  notebook_packages:
    description: Requirements of packages that a site adds to the image C(notebooks). One that cannot be read is an error.
    type: list
    elements: str
    default: []
  want:
    description: C(tags), or C(certificates) for the texts of the extra CA certificates.
    type: str
    choices: [tags, certificates]
    default: tags
  root:
    description: The checkout. Found from this file's own place when not given.
    type: path
"""

EXAMPLES = """
lakehouse_images: "{{ lookup('image_tags') }}"
"""

RETURN = """
_raw:
  description: One dictionary, name to tag; or the certificates.
  type: list
  elements: raw
"""


BLOCK = re.compile(r'^variable "([^"]+)" \{\}|^(target|variable) "([^"]+)" \{(.*?)^\}', re.MULTILINE | re.DOTALL)
DIGITS = 12
# Made on the build host, not in the bake file: part of what is at the bottom of every chain.
ROOTFS_RECIPE = "roles/images/files/make-rootfs"
NO_INPUT_SUFFIXES = {".j2", ".pyc", ".md", ".in"}
NO_INPUT_NAMES = {
    "__pycache__",
    "tests",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".ipynb_checkpoints",
    ".hypothesis",
}


def inputs(folder: Path) -> Iterator[Path]:
    """The files of a context that an image can depend on, in a fixed order."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if NO_INPUT_NAMES.intersection(parts) or any(part.endswith(".egg-info") for part in parts):
            continue
        if path.is_file() and path.suffix not in NO_INPUT_SUFFIXES and not path.name.startswith("."):
            yield path


def certificates(places: list[str]) -> list[bytes]:
    """The CA certificates of files and folders, in an order that does not depend on their names."""
    found: set[bytes] = set()
    for place in map(Path, places):
        files = [place] if place.is_file() else sorted(place.rglob("*.crt")) if place.is_dir() else []
        found.update(file.read_bytes().strip() for file in files)
    return sorted(found)


def requirements(packages: list[str]) -> str:
    """The packages that a site adds to the notebooks, one a line, as the bake file's NOTEBOOK_PACKAGES."""
    for package in packages:
        try:
            Requirement(package)
        except (InvalidRequirement, TypeError) as error:
            raise AnsibleLookupError(
                f"lakehouse_notebook_packages: {package!r} is no package to install: {str(error).splitlines()[0]}. Write a name, "
                "with a version if it must be that one: polars, polars==1.35.2, 'geopandas>=1.1,<2'."
            ) from None
    return "\n".join(sorted(packages))


class BakeFile:
    """What this plugin needs to know of docker-bake.hcl and versions.hcl: their blocks, as text."""

    def __init__(self, compose: Path) -> None:
        self.compose = compose
        self.targets: dict[str, str] = {}
        self.variables: dict[str, str] = {}
        for name in ("versions.hcl", "docker-bake.hcl"):
            text = (compose / name).read_text(encoding="utf-8")
            for empty, kind, block, body in BLOCK.findall(text):
                if kind == "target":
                    self.targets[block] = body
                else:
                    self.variables[block or empty] = body

    def names(self) -> list[str]:
        """Targets that become tagged images."""
        return [name for name, body in self.targets.items() if re.search(r"^\s*tags\s*=", body, re.MULTILINE)]


class Hashes:
    """Hashes of targets, each computed once."""

    # Where things lie on a build host says nothing about what is built.
    PLACES = frozenset({"TAG", "SOURCES", "CA_BUNDLE", "CAS", "ROOTFS"})

    def __init__(self, bake: BakeFile, values: Mapping[str, str], bottom: str) -> None:
        self.bake = bake
        self.values = values
        self.bottom = bottom
        self.known: dict[str, str] = {}
        self.folders: dict[str, str] = {}

    def folder(self, relative: str) -> str:
        """The hash of a local context."""
        if relative not in self.folders:
            place = (self.bake.compose / relative).resolve()
            digest = hashlib.sha256()
            for path in inputs(place):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                executable = bool(path.stat().st_mode & 0o100)
                digest.update(f"{path.relative_to(place).as_posix()} {executable} {content}\n".encode())
            self.folders[relative] = digest.hexdigest()
        return self.folders[relative]

    def target(self, name: str) -> str:
        """The hash of a target and of all it is made from."""
        if name in self.known:
            return self.known[name]
        body = self.bake.targets.get(name)
        if body is None:
            raise AnsibleLookupError(f"docker-bake.hcl names the target {name} but does not define it")
        text = re.sub(r"^\s*(tags|#).*$", "", body, flags=re.MULTILINE)
        parts: dict[str, Any] = {"text": " ".join(text.split())}
        words = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", text))
        parts["variables"] = {
            word: self.values.get(word, self.bake.variables[word])
            for word in sorted(words & self.bake.variables.keys() - self.PLACES)
        }
        parts["folders"] = {
            path: self.folder(path)
            for path in sorted(set(re.findall(r'=\s*"([A-Za-z0-9._/-]+)"', text)))
            if (self.bake.compose / path).is_dir() and "/" not in path.removeprefix("../")
        }
        parts["targets"] = {
            parent: self.target(parent) for parent in sorted(set(re.findall(r'"target:([^"]+)"', text)))
        }
        if "rootfs" in text:
            parts["bottom"] = self.bottom
        self.known[name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
        return self.known[name]


def tags(
    root: Path, uids: Mapping[str, int], extra_cas: list[str], refresh: str, notebook_packages: list[str]
) -> dict[str, str]:
    """Name to tag of every image of the checkout `root`."""
    compose = root / "compose"
    try:
        bake = BakeFile(compose)
        recipe = (root / ROOTFS_RECIPE).read_bytes()
    except OSError as error:
        raise AnsibleLookupError(
            f"{error.filename} cannot be read: {error.strerror}. Is the checkout complete?"
        ) from error
    values = {f"UID_{name.upper()}": str(uid) for name, uid in uids.items()}
    values |= {"REFRESH": refresh, "NOTEBOOK_PACKAGES": requirements(notebook_packages)}
    bottom = hashlib.sha256(recipe + b"\0".join(certificates(extra_cas))).hexdigest()
    hashes = Hashes(bake, values, bottom)
    return {name: f"lakehouse/{name}:{hashes.target(name)[:DIGITS]}" for name in bake.names()}


class LookupModule(LookupBase):
    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=kwargs)
        if self.get_option("want") == "certificates":
            return [[text.decode() for text in certificates(self.get_option("extra_cas"))]]
        uids = self.get_option("uids")
        if uids is None:
            uids = self._templar.template((variables or {}).get("lakehouse_uids"))
        if not uids:
            raise AnsibleLookupError("image_tags needs the users' ids: give uids=... or define lakehouse_uids")
        root = self.get_option("root") or Path(__file__).resolve().parents[2]
        return [
            tags(
                Path(root),
                uids,
                self.get_option("extra_cas"),
                str(self.get_option("refresh")),
                self.get_option("notebook_packages"),
            )
        ]
