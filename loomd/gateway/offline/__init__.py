"""The model `offline/rules`: a few real jobs on Python code, with no key and no network. Pure.

It sees what any model sees (pinned texts, entries, tool names, the role) and answers with the same
tool calls, final texts and failures. It has no files, no clock and no memory of its own.

`policy`      the door: `complete(resolved) -> Outcome`, by role
`goals`       the sentences it understands: rename X to Y, find the uses of X, outline M
`talk`        the conversation as a policy sees it; what a policy remembers between turns
`results`     what tools say, read as data
`lead` `researcher` `coder` `reviewer` `tester`   one policy per role
`text`        positions, tokens, the inside of f-strings
`scopes`      who binds which name where
`symbols`     every place of a name in one file, and what it means there
`modules`     which file an import means
`project`     many files joined: what a rename must change, and what stands against it
`rename`      one file changed; the smallest block of lines that holds the change
`outline`     a module's classes, functions and docstrings

policy -> roles -> talk, results -> project -> symbols -> scopes -> text; nothing points back.
What goes from role to role is a fenced JSON block at the end of a task or report: `find_rename`
`find_uses` `outline` (lead -> researcher), `places` `uses` `outlined` (back), `rename` (lead ->
coder), `renamed` (back).
"""

from __future__ import annotations

from loomd.gateway.offline.policy import complete

__all__ = ["complete"]
