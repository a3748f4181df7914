"""Tests of the image stage, and the hand-made buckets they and other stages' tests read."""
