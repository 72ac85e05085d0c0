"""Moodle's database in Iceberg tables: raw -> curated -> features -> marts."""

import os

# The deployed version, which the Compose file gives the service `jobs`. Here it would make every version build the images again.
__version__ = os.environ.get("LAKEHOUSE_VERSION") or "unknown (not deployed)"
