"""Helpers with no knowledge of networks, runs or data sets: files, images, geometry, registries. Imports nothing of the other rooms."""
