"""The artifact on disk: parts, blobs, graphs, costs."""
