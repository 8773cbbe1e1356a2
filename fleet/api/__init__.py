"""The coordinator over HTTP: the fleet's own API and OpenAI's."""
