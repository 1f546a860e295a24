"""Measuring methods against each other on prompts: their gain per kind of text, and that nothing changes."""
