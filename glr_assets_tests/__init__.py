"""Tests, in the order of the packages they test; `assets/` and `integration/` run Dagster and real servers."""
