"""The source's CSV tables as typed Parquet: ids stay strings, and column names forbid the wrong joins."""
