"""A password's bcrypt hash that stays the same as long as the password does."""

from __future__ import annotations

import re

import bcrypt
from ansible.errors import AnsibleFilterError

DOCUMENTATION = """
name: bcrypt_hash
short_description: Hash a password, or keep the hash it has
description: A hash has a random salt. Keeping the one that still verifies makes the task that writes it idempotent.
positional: previous
options:
  _input:
    description: The password, at most 72 bytes.
    type: str
    required: true
  previous:
    description: Text that may hold the hash in use, such as the file it was written to.
    type: str
    default: ""
"""

EXAMPLES = """
hash: "{{ vault_admin_password | bcrypt_hash('$2b$11$...') }}"
"""

RETURN = """
_value:
  description: The hash.
  type: str
"""


def bcrypt_hash(password: str, previous: str = "") -> str:
    """Return a password's bcrypt hash, the previous one where it still fits."""
    secret = str(password).encode()
    if len(secret) > 72:
        raise AnsibleFilterError(
            "bcrypt takes passwords of at most 72 bytes: shorten the passwords of the users of edge."
        )
    for in_use in re.findall(r"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}", str(previous)):
        if bcrypt.checkpw(secret, in_use.encode()):
            return str(in_use)
    return bcrypt.hashpw(secret, bcrypt.gensalt(rounds=11)).decode()


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {"bcrypt_hash": bcrypt_hash}
