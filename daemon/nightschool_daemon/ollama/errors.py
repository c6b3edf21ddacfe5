"""What can go wrong with Ollama. Each message is a sentence that says what to do next."""


class OllamaError(Exception):
    """Something about Ollama went wrong."""


class OllamaUnreachable(OllamaError):
    """The server does not answer, or went away in the middle."""


class InvalidHost(OllamaError):
    """What is configured as the server's address is none."""


class RemoteHostRefused(OllamaError):
    """The server is on another machine, which the configuration does not allow."""


class ModelMissing(OllamaError):
    """The server does not have the model."""


class OllamaRefused(OllamaError):
    """The server answered with an error. `status` is the HTTP status, 200 for an error inside a stream."""

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


class OllamaInterrupted(OllamaError):
    """A stream ended without its last line: the answer or the deed is not whole."""


class BlobUnreadable(OllamaError):
    """The model's file cannot be found or read on this machine."""


class PublicationFailed(OllamaError):
    """A tag was created, but it is not what was sent."""
