"""Erase people from every table and file of the lake."""
