"""A collection of one's own photographs as a source: found, judged, credited, split and written as a bucket."""
