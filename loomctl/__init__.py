"""The client: attaches people and programs to a daemon.

Imports `loomd.wire` and nothing else of loomd.
"""
