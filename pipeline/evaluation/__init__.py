"""A checkpoint to scores: retrieval, localization, classification; `probe` holds linear probes."""
