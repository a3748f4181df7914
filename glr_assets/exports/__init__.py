"""Packages of a manifest's images for others to train on and to look at: TFRecords, webdataset, zip."""
