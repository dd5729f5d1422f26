"""Arithmetic alone, arrays in and numbers out: ranking, retrieval, localization, alignment, intervals."""
