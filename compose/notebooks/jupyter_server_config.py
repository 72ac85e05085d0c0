"""JupyterLab as a service behind edge, which authenticates people and adds the token."""

import os

from lakehouse_notebooks import pages
from lakehouse_notebooks.identity import EdgeIdentityProvider

c = get_config()  # type: ignore[name-defined]  # noqa: F821
c.ServerApp.ip = "0.0.0.0"
c.ServerApp.port = 8888
c.ServerApp.port_retries = 0
c.ServerApp.open_browser = False
c.ServerApp.root_dir = "/home/notebooks/notebooks"
c.ServerApp.base_url = os.environ.get("JUPYTER_BASE_URL") or "/"
c.ServerApp.allow_remote_access = True
c.ServerApp.trust_xheaders = True
c.ServerApp.quit_button = False
c.ServerApp.identity_provider_class = EdgeIdentityProvider
c.ServerApp.allow_unauthenticated_access = False
c.ServerApp.terminado_settings = {"shell_command": ["/bin/bash"]}

c.ServerProxy.servers = pages.SERVERS
pages.tell_of_the_end()
