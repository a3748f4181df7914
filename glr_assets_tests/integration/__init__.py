"""The whole lineage as a user runs it: the command line, real servers, kills."""
