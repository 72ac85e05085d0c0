"""Report the results of a run to people."""
