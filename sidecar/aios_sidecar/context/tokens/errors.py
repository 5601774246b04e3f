"""What can go wrong when tokens are counted."""


class UnknownTokenizer(ValueError):
    """There is no such tokenizer here; the message says what must be there."""
