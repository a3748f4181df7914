"""From a bucket of landmark photographs to a recogniser, as a Dagster asset platform."""
