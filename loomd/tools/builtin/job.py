"""job(id, action, text): only the shape; the tool host, which has the jobs, answers it itself."""

from __future__ import annotations

from typing import Literal

from loomd.tools.contract import ToolError, tool


@tool
def job(
    id: str = "",
    action: Literal["poll", "input", "kill", "list"] = "poll",
    text: str = "",
    wait_s: float = 1.0,
    eof: bool = False,
) -> str:
    """Speaks with a command that `shell` runs in the background. `poll` answers with what it has
    printed since you asked last, and whether it still runs. `input` types `text` into it (a line
    needs its newline) and polls. `kill` ends it: SIGTERM, after 5 s SIGKILL. `list` names all jobs
    of the session. While review is required, a job works on a private copy of the checkout: when
    it has ended by itself with exit code 0, the first poll after its end proposes what it changed.
    Jobs end with the session.

    Args:
        id: of the job, as `shell` has answered it
        action: poll, input, kill or list
        text: for input, exactly as typed
        wait_s: answer at the latest after so many seconds, before that as soon as there is news
        eof: for input: the end of its input, after the text
    """
    raise ToolError("job is answered by the tool host itself", "no_such_tool")
