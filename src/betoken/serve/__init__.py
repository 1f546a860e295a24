"""An OpenAI-compatible server around one engine. Needs the extra `serve`."""
