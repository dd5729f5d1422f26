"""`mcn verify`: everything a data set holds against its checksums, and its repair."""
