"""What a handler raises so that its client hears of it."""

#: One past the last status: HTTP has three digits, and nothing uses those from 600 on.
_STATUSES = 600

#: Longest message, in characters: an error is a sentence, not an answer.
MAX_MESSAGE_LENGTH = 8192


class HttpError(Exception):
    """Ends a request with an HTTP status from 400 to 599 and a message.

    A status below 400 is no error's: the client then hears that the worker failed, with 502.
    """

    def __init__(self, code: int, message: str) -> None:
        if not isinstance(code, int) or isinstance(code, bool) or not 0 <= code < _STATUSES:
            raise ValueError(f"code needs to be an HTTP status from 0 to 599, not {code!r}")
        if not isinstance(message, str):
            raise TypeError(f"message needs to be text, not {type(message).__name__}")
        if len(message) > MAX_MESSAGE_LENGTH:
            raise ValueError(
                f"message has {len(message)} characters; clients get {MAX_MESSAGE_LENGTH} at most"
            )
        super().__init__(message)
        self.code = code
        self.message = message
