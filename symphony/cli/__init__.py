"""Offer everything at the command line: `symphony serve`, `profile`, `bench`."""
