"""The lake itself: its tables and their contracts, snapshots and files, the Spark session, records of runs."""
