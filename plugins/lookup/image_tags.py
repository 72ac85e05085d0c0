"""Tags of the project's images, computed from what each is built from, and the targets that build them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from ansible.errors import AnsibleLookupError
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.lookup import LookupBase
from packaging.requirements import InvalidRequirement, Requirement

DOCUMENTATION = """
name: image_tags
author: Moodle Lakehouse contributors
short_description: Tags of the project's images
description:
  - Returns a dictionary from an image's name to its full tag C(lakehouse/NAME:HASH), or what else C(want) says.
  - The hash covers the image's inputs as compose/images.yml names them. These are its entry and the part C(common), the values of
    the variables named there, the files of its local contexts, the hashes of its C(target:) contexts, the users' ids and, at
    the bottom of every chain, the root file system's recipe and the extra CA certificates. The same inputs give the same tag on every machine.
  - Templates (*.j2), tests, notes and caches are no inputs, nor are places on the build host and the project's version.
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
  places:
    description: Values of the variables C(SOURCES), C(CA_BUNDLE), C(CAS) and C(ROOTFS), for C(want=targets).
    type: dict
    default: {}
  want:
    description: >-
      C(tags); C(default) for the names of the images that are built when none are asked for; C(targets) for a dictionary from
      each image's and stage's name to its attributes as a bake target, without a tag; or C(certificates) for the texts of the extra CA
      certificates.
    type: str
    choices: [tags, default, targets, certificates]
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
  description: One dictionary, name to tag; or what else is wanted.
  type: list
  elements: raw
"""


DIGITS = 12
FILE = "compose/images.yml"
# Built on the build host, not by bake: part of what is at the bottom of every chain.
ROOTFS_RECIPE = "roles/images/files/make-rootfs"
# Where things lie on a build host, and the project's version, say nothing about what is built.
NO_INPUT_VARIABLES = frozenset({"SOURCES", "CA_BUNDLE", "CAS", "ROOTFS", "LAKEHOUSE_VERSION"})
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

VARIABLE = re.compile(r"\$\{([^}]*)\}")
TEXT, TEXTS, MAPPING, FLAG = "a text", "a list of texts", "a mapping of texts", "true or false"
ATTRIBUTES = {
    "context": TEXT,
    "contexts": MAPPING,
    "args": MAPPING,
    "target": TEXT,
    "secret": TEXTS,
    "labels": MAPPING,
}
SECTIONS = ("versions", "common", "images", "stages")
IS_A: dict[str, Callable[[Any], bool]] = {
    TEXT: lambda value: isinstance(value, str),
    TEXTS: lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    MAPPING: lambda value: isinstance(value, dict) and all(isinstance(item, str) for item in value.values()),
    FLAG: lambda value: isinstance(value, bool),
}


def inputs(folder: Path) -> Iterator[Path]:
    """Yield the files of a context that an image can depend on, in a fixed order."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if NO_INPUT_NAMES.intersection(parts) or any(part.endswith(".egg-info") for part in parts):
            continue
        if path.is_file() and path.suffix not in NO_INPUT_SUFFIXES and not path.name.startswith("."):
            yield path


def certificates(places: list[str]) -> list[bytes]:
    """Return the CA certificates of files and folders, in an order that does not depend on their names."""
    found: set[bytes] = set()
    for place in map(Path, places):
        files = [place] if place.is_file() else sorted(place.rglob("*.crt")) if place.is_dir() else []
        found.update(file.read_bytes().strip() for file in files)
    return sorted(found)


def requirements(packages: list[str]) -> str:
    """Return the packages that a site adds to the notebooks, one a line: the variable NOTEBOOK_PACKAGES."""
    for package in packages:
        try:
            Requirement(package)
        except (InvalidRequirement, TypeError) as error:
            raise AnsibleLookupError(
                f"lakehouse_notebook_packages: {package!r} is no package to install: {str(error).splitlines()[0]}. Write a name, "
                "with a version if it must be that one: polars, polars==1.35.2, 'geopandas>=1.1,<2'."
            ) from None
    return "\n".join(sorted(packages))


def site_variables(uids: Mapping[str, int], refresh: str, notebook_packages: list[str]) -> dict[str, str]:
    """Return the variables of compose/images.yml whose values are a site's and inputs of the tags."""
    values = {f"UID_{name.upper()}": str(uid) for name, uid in uids.items()}
    return values | {"REFRESH": refresh, "NOTEBOOK_PACKAGES": requirements(notebook_packages)}


def read(path: Path) -> bytes:
    """Return a file's content."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise AnsibleLookupError(f"{path} cannot be read: {error.strerror}. Is the checkout complete?") from error


def checked(place: str, value: Any, kinds: Mapping[str, str]) -> dict[str, Any]:
    """Return a mapping whose keys and kinds of values are those of `kinds`; anything else is an error that names the place."""
    if not isinstance(value, dict):
        raise AnsibleLookupError(f"{FILE}: {place} must be a mapping of: {', '.join(kinds)}.")
    for key, item in value.items():
        if key not in kinds:
            raise AnsibleLookupError(f"{FILE}: {place} has the unknown key {key!r}. Known are: {', '.join(kinds)}.")
        if not IS_A[kinds[key]](item):
            raise AnsibleLookupError(f"{FILE}: {place}.{key} must be {kinds[key]}, not {item!r}. Quote numbers.")
    return value


class Images(NamedTuple):
    """What compose/images.yml says, checked."""

    compose: Path
    versions: dict[str, str]
    common: dict[str, Any]
    # By name, the attributes of every image and stage, without those of `common`
    entries: dict[str, dict[str, Any]]
    # Names of the images, and of those that are built when none are asked for
    images: list[str]
    default: list[str]

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of an entry, those of `common` included."""
        return {**self.common, **self.entries[name]}

    def contexts(self, name: str) -> set[str]:
        """Return all contexts of an entry, its own folder included."""
        attributes = self.attributes(name)
        return {attributes["context"], *attributes.get("contexts", {}).values()}

    def parents(self, name: str) -> list[str]:
        """Return the names of the entries that an entry is built from."""
        return sorted(
            context.removeprefix("target:") for context in self.contexts(name) if context.startswith("target:")
        )

    def folders(self, name: str) -> list[str]:
        """Return the local contexts of an entry, relative to the folder compose."""
        return sorted(context for context in self.contexts(name) if not context.startswith(("target:", "${")))

    def order(self) -> list[str]:
        """Return the names of all entries, each after those it is built from."""
        try:
            return list(TopologicalSorter({name: self.parents(name) for name in self.entries}).static_order())
        except CycleError as error:
            circle = ", ".join(error.args[1])
            raise AnsibleLookupError(f"{FILE}: these are built from each other: {circle}.") from None


def load(root: Path) -> Images:
    """Read compose/images.yml of a checkout; what it should not say is an error that names the place and the remedy."""
    content = yaml_load(read(root / FILE))
    if not isinstance(content, dict) or set(content) != set(SECTIONS):
        raise AnsibleLookupError(f"{FILE} must have exactly these sections: {', '.join(SECTIONS)}.")
    for name, section in content.items():
        if not isinstance(section, dict):
            raise AnsibleLookupError(f"{FILE}: {name} must be a mapping.")
    versions = checked("versions", content["versions"], dict.fromkeys(content["versions"], TEXT))
    common = checked("common", content["common"], ATTRIBUTES)
    entries: dict[str, dict[str, Any]] = {}
    for section, kinds in (("images", ATTRIBUTES | {"default": FLAG}), ("stages", ATTRIBUTES)):
        for name, value in content[section].items():
            entry = checked(f"{section}.{name}", value, kinds)
            if name in entries:
                raise AnsibleLookupError(f"{FILE}: {name} is an image and a stage. Rename one of them.")
            if "context" not in entry:
                raise AnsibleLookupError(f"{FILE}: {section}.{name} lacks the key 'context', its Dockerfile's folder.")
            entries[name] = {key: item for key, item in entry.items() if key != "default"}
    default = [name for name, entry in content["images"].items() if entry.get("default", True)]
    images = Images(root / "compose", versions, common, entries, list(content["images"]), default)
    for name in entries:
        for parent in images.parents(name):
            if parent not in entries:
                known = ", ".join(sorted(entries))
                raise AnsibleLookupError(
                    f"{FILE}: {name} is built from the unknown target:{parent}. Known are: {known}."
                )
        for folder in images.folders(name):
            if not (images.compose / folder).is_dir():
                raise AnsibleLookupError(
                    f"{FILE}: {name} is built from {folder}, which is no folder in {images.compose}."
                )
    return images


def resolve(value: Any, values: Mapping[str, str]) -> Any:
    """Return a text, or a list or mapping of such, with the values of the variables that it names."""
    if isinstance(value, str):
        return VARIABLE.sub(lambda found: values[found[1]], value)
    if isinstance(value, list):
        return [resolve(item, values) for item in value]
    return {key: resolve(item, values) for key, item in value.items()}


def named_variables(images: Images, name: str, known: Mapping[str, str]) -> list[str]:
    """Return the names of the variables in an entry and in `common`; an unknown one is an error."""
    named = sorted(set(VARIABLE.findall(json.dumps([images.common, images.entries[name]]))))
    for variable in named:
        if variable not in {*known, *NO_INPUT_VARIABLES}:
            names = ", ".join(sorted({*known, *NO_INPUT_VARIABLES}))
            raise AnsibleLookupError(f"{FILE}: {name} names the unknown variable {variable}. Known are: {names}.")
    return named


def folder_hash(folder: Path) -> str:
    """Return the hash of a local context."""
    digest = hashlib.sha256()
    for path in inputs(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        executable = bool(path.stat().st_mode & 0o100)
        digest.update(f"{path.relative_to(folder).as_posix()} {executable} {content}\n".encode())
    return digest.hexdigest()


def tags(root: Path, site: Mapping[str, str], extra_cas: list[str]) -> dict[str, str]:
    """Return name to tag of every image of the checkout `root`, with a site's variables and CA certificates."""
    images = load(root)
    values = {**images.versions, **site}
    bottom = hashlib.sha256(read(root / ROOTFS_RECIPE) + b"\0".join(certificates(extra_cas))).hexdigest()
    paths = {path for name in images.entries for path in images.folders(name)}
    folders = {path: folder_hash((images.compose / path).resolve()) for path in paths}
    hashes: dict[str, str] = {}
    for name in images.order():
        named = named_variables(images, name, values)
        parts = {
            "common": images.common,
            "entry": images.entries[name],
            "variables": {variable: values[variable] for variable in named if variable not in NO_INPUT_VARIABLES},
            "folders": {path: folders[path] for path in images.folders(name)},
            "parents": {parent: hashes[parent] for parent in images.parents(name)},
            "bottom": bottom if "ROOTFS" in named else "",
        }
        hashes[name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return {name: f"lakehouse/{name}:{hashes[name][:DIGITS]}" for name in images.images}


def targets(root: Path, site: Mapping[str, str], places: Mapping[str, str]) -> dict[str, Any]:
    """Return name to attributes of every bake target, with the values of all variables."""
    images = load(root)
    version = read(root / "VERSION").decode().strip()
    values = {**images.versions, **site, **places, "LAKEHOUSE_VERSION": version}
    missing = NO_INPUT_VARIABLES - values.keys()
    if missing:
        raise AnsibleLookupError(f"image_tags with want=targets needs places of {', '.join(sorted(missing))}.")
    for name in images.entries:
        named_variables(images, name, values)
    return {name: resolve(images.attributes(name), values) for name in images.entries}


class LookupModule(LookupBase):
    """The lookup plugin."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[Any]:
        """Return the tags."""
        self.set_options(var_options=variables, direct=kwargs)
        root = Path(self.get_option("root") or Path(__file__).resolve().parents[2])
        want = self.get_option("want")
        if want == "certificates":
            return [[text.decode() for text in certificates(self.get_option("extra_cas"))]]
        if want == "default":
            return [load(root).default]
        uids = self.get_option("uids")
        if uids is None:
            uids = self._templar.template((variables or {}).get("lakehouse_uids"))
        if not uids:
            raise AnsibleLookupError("image_tags needs the users' ids: give uids=... or define lakehouse_uids")
        site = site_variables(uids, str(self.get_option("refresh")), self.get_option("notebook_packages"))
        if want == "targets":
            return [targets(root, site, self.get_option("places"))]
        return [tags(root, site, self.get_option("extra_cas"))]
