"""Ids to media files: yt-dlp, failures and their classes, the budget of disk."""
