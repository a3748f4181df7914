"""Photographs that show no landmark: a classifier over labelled crops and landmark photographs, and who it drops."""
