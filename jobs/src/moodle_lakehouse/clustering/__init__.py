"""Cluster courses by how their resources are used."""
