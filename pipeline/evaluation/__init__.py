"""What a trained model is worth: retrieval, localization of steps, classification; each beside chance and intervals."""
