"""`mcn estimate`: days, TB and GPU hours of each stage of a study."""
