"""`mcn inspect`: what any one file is, holds and was made by."""
