"""Assets materialised by Dagster on a temporary store."""
