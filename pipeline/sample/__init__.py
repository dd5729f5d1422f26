"""A made HowTo100M: videos, sounds and captions drawn from a seed, and the truth about every second."""
