"""Moodle's database in Iceberg tables: raw -> curated -> features -> marts."""

__version__ = "0.1.0"
