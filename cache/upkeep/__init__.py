"""Keeping a cache in order: verify, repair, merge, compact."""
