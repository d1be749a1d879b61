"""The tools that ship with loomd, a file per tool; `team` holds the shapes of the team's own.

A name with a leading underscore is no tool module. What these functions are told is checked against
their signatures; paths are theirs to check, all through `_checkout`.
"""
