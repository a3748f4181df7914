"""Tests of the curation stage."""
