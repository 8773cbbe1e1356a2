"""Answering requests: prompts in, text out, with what it cost."""
