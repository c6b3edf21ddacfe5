"""The service that teaches local Ollama models from feedback."""

__version__ = "0.1.0"
