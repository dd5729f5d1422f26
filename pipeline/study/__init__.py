"""The comparison of pairing schemes: arms and seeds trained alike, and what their differences are worth."""
