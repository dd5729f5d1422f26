"""Whole studies: all stages from one file, arms compared, the report."""
