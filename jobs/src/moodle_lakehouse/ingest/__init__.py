"""Copy Moodle's tables into lakehouse.raw and keep them equal to the source."""
