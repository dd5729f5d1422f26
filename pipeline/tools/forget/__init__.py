"""`mcn forget`: a video taken out of everything that holds it."""
