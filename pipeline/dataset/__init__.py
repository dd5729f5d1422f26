"""The data set's folder: plans, shards, captions, words, manifests. No torch."""
