"""The only room that talks to Ollama."""
