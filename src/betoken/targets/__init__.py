"""Targets: whatever can score a tree of tokens and commit a path of it. Each is one file behind the protocol in `base`."""
