"""Who may use Jupyter: whoever edge lets through, which it says by a token that no browser ever sees."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import Any

from jupyter_server.auth.identity import IdentityProvider, User
from tornado.web import HTTPError


def _no_login() -> str:
    # A reason, not a message, with which the log would hold the address as it was asked for, a token in it included.
    raise HTTPError(403, reason="Jupyter answers edge alone: open it by the portal")


class EdgeIdentityProvider(IdentityProvider):  # type: ignore[misc]
    """Accept the header `Authorization: token ...` of edge and nothing else: no cookie, no parameter, no login page.

    Jupyter knows of no token, so none is in its pages, and every request counts as a browser's: Jupyter checks
    its origin and asks for its protection against cross-site requests.
    """

    USER = User(username="admin", name="admin", display_name="admin", initials="A")
    token = ""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        file = Path(os.environ.get("JUPYTER_TOKEN_FILE", "/run/secrets/jupyter_token"))
        token = file.read_text(encoding="utf-8").strip()
        if not token:
            raise ValueError(f"{file} is empty: without a token nobody could be told from edge. Run site.yml again.")
        self._header = f"token {token}".encode()

    def get_user(self, handler: Any) -> User | None:
        """Return the one user there is, or nobody."""
        given = handler.request.headers.get("Authorization", "").encode()
        if hmac.compare_digest(given, self._header):
            return self.USER
        handler.get_login_url = _no_login  # or a page would lead to one that is not there
        return None

    def is_token_authenticated(self, handler: Any) -> bool:
        """Say no, for it is edge that has the token, not who sent the request."""
        return False

    @property
    def login_available(self) -> bool:
        """Say no: edge asks for the password."""
        return False

    @property
    def logout_available(self) -> bool:
        """Say no: edge holds the session."""
        return False
