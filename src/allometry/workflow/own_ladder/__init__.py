"""The law of a ladder of the built-in decoder, what earlier studies add to it, and the rungs it asks for next."""
