#!/usr/bin/python
"""Find out where a host gets its packages from, for builds that run in containers on it."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import ipaddress
import json
import os
import pwd
import re
import shlex
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: image_sources
author: Moodle Lakehouse contributors
short_description: Collect the host's package sources, proxies and CA certificates for image builds
description:
  - Asks apt, pip and Go for their configuration, and reads the proxy variables and the extra CA certificates of the host.
  - Writes them below I(path) in the form that the builds read. Nothing of it enters an image but the CA certificates.
options:
  path: {description: Folder to write into, type: path, required: true}
  suites: {description: Debian suites that the builds install from, type: list, elements: str, required: true}
  apt_uri: {description: Debian archive; empty means the host's own, type: str, default: ""}
  apt_security_uri: {description: Archive of security updates; empty means the host's own, type: str, default: ""}
  apt_options: {description: Further fields of the deb822 stanzas, type: dict, default: {}}
  pypi_index: {description: Python package index; empty means the host's own, type: str, default: ""}
  maven_mirror: {description: Mirror of Maven Central; empty means none, type: str, default: ""}
  go_proxy: {description: Go module proxy; empty means the host's own, type: str, default: ""}
  proxies: {description: Proxy variables that replace the host's own, type: dict, default: {}}
  certificates: {description: CA certificates (PEM) besides the host's own, type: list, elements: str, default: []}
"""

RETURN = """
proxies: {description: Proxy variables for the builds, type: dict, returned: always}
found: {description: What was found, credentials left out, type: dict, returned: always}
"""


KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
HOST_CAS = Path("/usr/local/share/ca-certificates")
HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
APT_SETTINGS = re.compile(
    r"^Acquire::(?:https?::(?!.*(?:CaInfo|CaPath|SslCert|SslKey|Proxy-Auto-Detect))|Check-|Retries|ForceIPv|Max-)\S* \".*\";$"
)


def homes() -> list[Path]:
    """Home folders whose configuration counts: of the user that runs this, and of the one that became it."""
    found = [Path("~").expanduser()]
    user = os.environ.get("SUDO_USER")
    if user and user != "root":
        with contextlib.suppress(KeyError):
            found.append(Path(pwd.getpwnam(user).pw_dir))
    return found


def existing(names: list[str]) -> list[Path]:
    """Files that are there: absolute names as they are, others below each home."""
    paths = [Path(name) if name.startswith("/") else home / name for name in names for home in homes()]
    return [path for path in dict.fromkeys(paths) if path.is_file() and os.access(path, os.R_OK)]


def assignments(path: Path) -> dict[str, str]:
    """NAME=value lines, as in /etc/environment."""
    found = {}
    for line in path.read_text(errors="replace").splitlines():
        match = re.match(r"\s*(?:export\s+)?([A-Za-z_]\w*)=(.*)$", line)
        if match:
            words = shlex.split(match[2], comments=True) or [""]
            found[match[1]] = words[0]
    return found


def without_credentials(text: str) -> str:
    """URLs as they may be shown."""
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def is_loopback(url: str) -> bool:
    """Return whether an address reaches only the host itself."""
    host = urlsplit(url if "//" in url else "//" + url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Sources:
    """Package sources of the host: from the module's parameters, else from the host's own configuration."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.environment = dict(os.environ)
        for path in existing(["/etc/environment"]):
            self.environment = assignments(path) | self.environment

    def run(self, *argv: str) -> str:
        """Return what a program prints."""
        _, out, _ = self.module.run_command(list(argv), environ_update={"LC_ALL": "C"}, check_rc=True)
        return str(out)

    # apt ---------------------------------------------------------------------------------------------------------------

    def archives(self) -> dict[str, str]:
        """Debian's archives of the host: label (Debian, Debian-Security) to URI; `updates` when the host uses that suite."""
        release = assignments(Path("/etc/os-release")).get("VERSION_CODENAME", "")
        policy = self.run("apt-cache", "policy")
        if "o=Debian," not in policy and not self.module.check_mode:
            self.run("apt-get", "update", "--quiet=2")
            policy = self.run("apt-cache", "policy")
        found: dict[str, str] = {}
        entry = re.compile(r"^ *-?\d+ (\S+) \S+/main \S+ Packages\n +release (\S*o=Debian,\S*)$", re.MULTILINE)
        for uri, fields in entry.findall(policy):
            keys = dict(field.split("=", 1) for field in fields.split(",") if "=" in field)
            plain = self.plain(uri)
            if plain and keys.get("n") == f"{release}-updates":
                found.setdefault("updates", plain)
            elif plain and keys.get("n") in (release, f"{release}-security"):
                found.setdefault(keys.get("l", ""), plain)
        return found

    @staticmethod
    def plain(uri: str) -> str:
        """A URI that a container can use: cloud images of Debian name a file that lists the mirrors."""
        if uri.startswith("mirror+file:"):
            listing = Path(re.sub("^mirror.file:/*", "/", uri))
            lines = listing.read_text().splitlines() if listing.is_file() else []
            uri = next((line.split()[0] for line in lines if line.strip() and not line.startswith("#")), "")
        return uri if re.match(r"https?://", uri) else ""

    def apt(self, files: dict[str, str]) -> dict[str, str]:
        """Return the sources of Debian's packages."""
        params = self.module.params
        archives = {} if params["apt_uri"] and params["apt_security_uri"] else self.archives()
        main = params["apt_uri"] or archives.get("Debian", "")
        security = params["apt_security_uri"] or archives.get("Debian-Security", "")
        if not main:
            self.module.fail_json(
                msg="The host's apt configuration names no Debian archive that is reachable by http or https, so no image "
                "can be built. Repair /etc/apt/sources.list (and run apt-get update) or set images_apt_uri."
            )
        options = {"Signed-By": KEYRING} | params["apt_options"]
        for suite in params["suites"]:
            stanzas = [(main, f"{suite} {suite}-updates" if "updates" in archives else suite)]
            if security:
                stanzas.append((security, f"{suite}-security"))
            files[f"apt.{suite}.sources"] = "\n".join(
                f"Types: deb\nURIs: {uri}\nSuites: {names}\nComponents: main\n"
                + "".join(f"{key}: {value}\n" for key, value in options.items())
                for uri, names in stanzas
            )
        settings = [line for line in self.run("apt-config", "dump", "Acquire").splitlines() if APT_SETTINGS.match(line)]
        files["apt.conf"] = "".join(line + "\n" for line in settings)
        folder = Path("/etc/apt/auth.conf.d")
        credentials = existing(["/etc/apt/auth.conf"]) + (sorted(folder.glob("*.conf")) if folder.is_dir() else [])
        files["auth.conf"] = "\n".join(path.read_text() for path in credentials)
        proxies = re.findall(r'^Acquire::https?::Proxy(?:::\S*)? "(.+)";$', files["apt.conf"], re.MULTILINE)
        return {"apt": main, "apt security": security} | {f"apt proxy {i}": uri for i, uri in enumerate(proxies, 1)}

    # Python, Maven, Go -------------------------------------------------------------------------------------------------

    def ask(self, *argv: str) -> Iterator[str]:
        """Yield what a program that knows its own configuration says of it, for each home; nothing where it is missing."""
        for home in homes():
            environment = self.environment | {"HOME": str(home), "LC_ALL": "C"}
            code, out, _ = self.module.run_command(list(argv), environ_update=environment)
            if code == 0:
                yield str(out)

    def pip(self) -> dict[str, str]:
        """Return pip's settings for installing, those of the environment before those of its files."""
        found: dict[str, str] = {}
        program = [sys.executable, "-m", "pip"]
        if self.module.run_command([*program, "--version"])[0] and (other := self.module.get_bin_path("pip")):
            program = [other]
        for output in self.ask(*program, "config", "list"):
            lines = [line.partition("=") for line in output.splitlines()]
            for section in (":env:", "install", "global"):
                for name, _, value in lines:
                    if name.startswith(f"{section}."):
                        found.setdefault(name.removeprefix(f"{section}."), str(ast.literal_eval(value)))
        return found

    def python(self) -> dict[str, str]:
        """Return variables for pip and uv."""
        settings = self.pip()
        if self.module.params["pypi_index"]:
            settings["index-url"] = self.module.params["pypi_index"]
        names = {
            "index-url": ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
            "extra-index-url": ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
            "trusted-host": ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST"),
        }
        return {
            variable: " ".join(settings[key].split())
            for key, variables in names.items()
            if settings.get(key)
            for variable in variables
        }

    def maven(self) -> dict[str, str]:
        """Return the mirror of Maven's packages."""
        mirror = self.module.params["maven_mirror"]
        return {"MAVEN_MIRROR": mirror.rstrip("/") + "/"} if mirror else {}

    def go(self) -> dict[str, str]:
        """Return the settings of Go's modules."""
        names = ("GOPROXY", "GOINSECURE", "GOPRIVATE", "GONOPROXY")
        values = {name: self.environment.get(name, "") for name in names}
        if program := self.module.get_bin_path("go", opt_dirs=["/usr/local/go/bin"]):
            for output in self.ask(program, "env", "-json", *names):
                values |= {name: value for name, value in json.loads(output).items() if value and not values[name]}
        values["GOPROXY"] = self.module.params["go_proxy"] or values["GOPROXY"]
        return {name: value for name, value in values.items() if value}

    # Proxies and certificates ------------------------------------------------------------------------------------------

    def proxies(self) -> dict[str, str]:
        """Return the proxies by variable."""
        given = self.module.params["proxies"]
        found: dict[str, str] = {}
        for name in PROXY_VARIABLES:
            value = self.environment.get(name) or self.environment.get(name.upper())
            if value:
                found[name] = value
        if given:
            found = {name.lower(): value for name, value in given.items()}
        # Programs differ in which spelling they read.
        return {
            spelling: found[name] for name in PROXY_VARIABLES if found.get(name) for spelling in (name, name.upper())
        }

    def certificates(self) -> dict[str, bytes]:
        """Files for the images' trust store, named by their content."""
        texts = [path.read_bytes() for path in sorted(HOST_CAS.rglob("*.crt"))] if HOST_CAS.is_dir() else []
        texts += [text.encode() for text in self.module.params["certificates"]]
        return {hashlib.sha256(text.strip()).hexdigest()[:16] + ".crt": text.strip() + b"\n" for text in texts}


def write(path: Path, content: bytes, mode: int, module: AnsibleModule) -> bool:
    """Write a file when it differs."""
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return False
    if not module.check_mode:
        new = path.with_name(path.name + ".new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
        new.replace(path)
    return True


def archive(files: dict[str, str]) -> bytes:
    """The same tar for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in sorted(files):
            content = files[name].encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def main() -> None:
    """Run the command."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "suites": {"type": "list", "elements": "str", "required": True},
            "apt_uri": {"type": "str", "default": ""},
            "apt_security_uri": {"type": "str", "default": ""},
            "apt_options": {"type": "dict", "default": {}},
            "pypi_index": {"type": "str", "default": ""},
            "maven_mirror": {"type": "str", "default": ""},
            "go_proxy": {"type": "str", "default": ""},
            "proxies": {"type": "dict", "default": {}},
            "certificates": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    sources = Sources(module)
    path = Path(module.params["path"])
    files: dict[str, str] = {}
    found = sources.apt(files)
    env = sources.python() | sources.maven() | sources.go()
    files["env"] = "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(env.items()))
    # Credentials of an index or proxy; pip, uv and Go all read NETRC.
    files["netrc"] = "\n".join(file.read_text() for file in existing([".netrc"]))
    proxies = sources.proxies()
    certificates = sources.certificates()

    addresses = found | {name: value for name, value in proxies.items() if name.lower() != "no_proxy"}
    addresses |= {
        f"{name} {i}": word for name, value in env.items() for i, word in enumerate(re.split(r"[ ,|]", value))
    }
    unreachable = sorted({without_credentials(address) for address in addresses.values() if is_loopback(address)})
    if unreachable:
        module.fail_json(
            msg=f"Builds run in containers, where {', '.join(unreachable)} is the container itself. Let the service listen on "
            "an address of the host, such as docker0's, and give that by images_proxies, images_apt_uri, images_pypi_index, "
            "images_maven_mirror or images_go_proxy."
        )

    changed: dict[str, Any] = {}
    if not module.check_mode:
        (path / "cas").mkdir(mode=0o755, parents=True, exist_ok=True)
    changed["sources"] = write(path / "sources.tar", archive(files), 0o600, module)
    bundle = HOST_BUNDLE.read_bytes() if HOST_BUNDLE.is_file() else b"\n".join(certificates.values())
    changed["bundle"] = write(path / "ca-bundle.crt", bundle, 0o644, module)
    for name, text in files.items():
        if name.startswith("apt.") or name == "auth.conf":
            changed[name] = write(path / name, text.encode(), 0o600, module)
    for name, content in certificates.items():
        changed[name] = write(path / "cas" / name, content, 0o644, module)
    if (path / "cas").is_dir():
        for old in (path / "cas").iterdir():
            if old.name not in certificates:
                changed[old.name] = True
                if not module.check_mode:
                    old.unlink()
    shown = found | env | {name: value for name, value in proxies.items() if name.islower()}
    module.exit_json(
        changed=any(changed.values()),
        proxies=proxies,
        found={name: without_credentials(value) for name, value in shown.items() if value}
        | {"extra CA certificates": str(len(certificates))},
    )


if __name__ == "__main__":
    main()
