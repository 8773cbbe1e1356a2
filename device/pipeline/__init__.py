"""The ring: scheduling at the head, stages, links, sampling."""
