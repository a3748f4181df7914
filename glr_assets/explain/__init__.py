"""The story of an image from the source to the submission: one record, and its page."""
