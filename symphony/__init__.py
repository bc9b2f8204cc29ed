"""Serve many DNN models under latency objectives with deferred batch scheduling."""
