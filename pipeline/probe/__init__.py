"""`mcn probe`: what each space of a trained model keeps of a clip."""
