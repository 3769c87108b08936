"""Serving: many Systems behind one OpenAI-compatible endpoint."""
