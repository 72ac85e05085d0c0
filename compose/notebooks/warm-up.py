"""Import what JupyterLab and its kernels import, so that Python compiles it once, while the image is built."""

import importlib
import sys

MODULES = [
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "IPython.terminal.interactiveshell",
    "jedi",
    "jupyter_lsp.handlers",
    "jupyter_server.serverapp",
    "jupyter_server_proxy",
    "jupyter_server_terminals",
    "jupyterlab.labapp",
    "jupyterlab.handlers.announcements",
    "matplotlib.pyplot",
    "matplotlib_inline.backend_inline",
    "mlflow.sklearn",
    "mlflow.spark",
    "mlflow.xgboost",
    "nbclient",
    "nbconvert.exporters",
    "notebook_shim",
    "pyiceberg.catalog.rest",
    "skops.io",
    "terminado",
]

for name in MODULES:
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"warm-up: {name}: {error}", file=sys.stderr)
