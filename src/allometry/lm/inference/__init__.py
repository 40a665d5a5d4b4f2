"""Text from a model, token by token: the step of one text, how a token is chosen, text from tokens."""
