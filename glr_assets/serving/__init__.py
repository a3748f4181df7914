"""One photograph at a time: the recogniser behind a JSON API and a page, and what keeps it up."""
