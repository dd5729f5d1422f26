"""Shards to the clips of a batch: rules, cutting, reading."""
