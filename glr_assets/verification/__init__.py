"""From a curated set to the images of it that are verified: they show, by geometry, what others of their landmark show.

`plan` says which images are compared, `extractors` find their local features, `local_features` keeps them, `matching`
and `geometry` compare two images, `traps` refuses what agrees for the wrong reason, `calibration` learns how many
inliers chance gives, `classes` tries the pairs of a landmark, `verified_pairs` does so bucket by bucket and
`cleaned_manifest` decides.
"""
