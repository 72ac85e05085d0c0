"""Build dimensions and facts, lakehouse.curated, from the raw tables."""
