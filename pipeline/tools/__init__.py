"""What an operator asks: status, inspect, doctor, estimate, verify, forget."""
