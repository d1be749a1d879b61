"""Errors that cross a border, named by whose fault they are, each with its exit code.

`LoomError` carries what a person needs: a stable code, one sentence, and what to do about it.
Exit codes are CONTRACT's: 1 work failed, 2 usage, 3 no daemon, 4 authentication, 5 permission
denied, 6 budget, 7 limit, 8 configuration, 124 timeout, 130 interrupted.
"""

from __future__ import annotations

EXIT_CODES: dict[str, int] = {
    # the caller's
    "usage": 2,
    "unknown_op": 2,
    "bad_request": 2,
    "not_found": 2,
    "no_such_session": 2,
    "no_such_actor": 2,
    "not_yet": 2,
    "too_large": 2,
    "unknown_message": 2,
    "bad_state": 2,
    # the instance's
    "no_daemon": 3,
    "daemon_failed": 3,
    "auth": 4,
    "permission_denied": 5,
    "budget": 6,
    "limit": 7,
    "config": 8,
    # the world's
    "disk_full": 1,
    "actor_died": 1,
    "conflict": 1,
    "not_running": 1,
    "failed": 1,
    "internal": 1,
    "timeout": 124,
    "interrupted": 130,
}


class LoomError(Exception):
    """An error with a wire code, a message for people and a hint that says what to do."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    @property
    def exit_code(self) -> int:
        return EXIT_CODES.get(self.code, 1)

    def as_json(self) -> dict[str, dict[str, str]]:
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint}}
