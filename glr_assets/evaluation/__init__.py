"""What a recogniser is worth: the official metrics, and the files they are computed from."""
