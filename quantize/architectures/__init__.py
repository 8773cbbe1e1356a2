"""The families of decoders that can be imported, each a leaf of data and of graph differences."""
