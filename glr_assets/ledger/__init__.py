"""Every decision on every image, gathered from the stages that made it.

`image_ledger` has a row for each image id ever seen, `balance` adds them up, and `why` tells one image's story.
"""
