"""The image shards: each source shard streamed once, verified, selected, downsized, hashed and stored."""
