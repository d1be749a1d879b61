"""Misbehaving programs: small real ones, steered by their args and by files in a folder."""
