"""A demo Moodle database: Moodle 4.3's tables with synthetic, OULAD's or a dump's data."""
