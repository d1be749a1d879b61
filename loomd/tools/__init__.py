"""What agents do to the world: tools, each call in a process of its own.

`contract`     what a tool file is written with: `tool`, `Context`; schemas, arguments (pure)
`permissions`  may this call be made: allow, ask or deny (pure); from
  `facts`, `command_facts`      what the rules (`loomd.rules`) say of a path, a host, a command
  `shell_line`, `shell_parts`   a shell line taken apart; what it runs, through its `wrappers`
  `catastrophes`, `git_commands`, `protected`   what no rule can allow
`barred`       what is left out of whatever looks through a folder of the checkout (pure)
`credentials`  where keys and passwords lie, for the rules and for the sandbox (pure)
`desk`         the permission part of the host's step: judges, asks, takes answers (pure)
`links`        where the links in a call's paths lead, looked up right before it is made
`trial`        a program: what the rules would say of a call that nobody makes
`needs`        what one call needs, by its arguments (pure)
`git_policy`   what a command of git changes or throws away (pure)
`host`         the behaviour of the actor `S/tools`: calls, questions, proposals (pure)
`process`      its entry point and its performer: which effect goes to whom
`places`       where the calls of a session live and what they may take
`generations`  the generations it holds: which is in force, and how the next one gets there
`snapshots`    the tool files as they were, by the hash of their content, as long as they are needed
`compatible`   may new code replace a tool while a person is asked about a call of it (pure)
`queue`        which of the calls that wait may start (pure)
`slots`        how many run at once on this daemon: locks that end with their process
`calls`        the calls under way: the order to each, and what is said with it until its end
`background`   commands in the background: their rows and their ends (pure)
`jobs`         those under way: what is said to them, and what agents are told of them
`results`      what came of a call: what its agent, or the team, is told
`nursery`      forked before the actor opens a socket: parent and undertaker of everything below it
`generation`   a process that has imported one snapshot of the tool files; forks a call when told
`guard`        the parent of one call's worker, and the end of all that the worker started
`worker`       the process that confines itself, runs the function and sends what came of it
`frames`       what tool host, guard and worker speak in
`spool`        what a command prints, whole, on disk; `outputs`: kept for later commands
`progress`     what a call says while it runs, to whoever looks on
`terminal`     output as a terminal would show it (pure)
`shellenv`     what stays of a command for the next one (pure); `surroundings`: of each agent
`profile`      what a call may read, write, see and reach, by profile (pure)
`ground`       the paths that this goes by, as they lie on the disk
`sandbox`      how a worker is confined: which back end there is, what it lacks, the way in
`bubblewrap`   the one back end: `bwrap` builds the sandbox, the worker enters it
`landlock`     the other, and under the first: an allow-list of folders
`namespaces`   mounts and a network of a call's own, made without bubblewrap
`seccomp`      a filter of system calls, under both
`denied`       which rule a failed call has run into, and how to ask for more (pure)
`scratch`      removes what calls have worked in, and nothing else
`propose`      two contents of a file -> hunks and a unified diff (pure)
`pinned`       files that commands may be writing meanwhile, reached by no link
`apply`        a proposal onto the disk: planned first, then temp file, fsync, rename
`merge`        three-way merge of lines (pure)
`reversal`     edits taken back: what the checkout would be without them (pure)
`undo`         what stands in the checkout for that, and what it would become, as blobs
`copy`         the private copy of a checkout that commands run in, and what they changed there
`layer`        what builds and caches leave in that copy, for the session's next one
`snapshot`     what calls change in the checkout itself, where no review is required
`witness`      its waiting half: looks before and after each such call
`stash`        a checkout as it stands, untracked files too, as a commit of git
`gitrun`       the one way in which git is started
`seen`         what agents have read, and whether it has changed since (pure)
`patch`        the `*** Begin Patch` grammar, and what it makes of files (pure)
`newlines`     line ends and byte order marks stay as they are in a file (pure)
`paths`        patterns for paths (pure)
`prefilter`    a regular expression of Python's -> one for ripgrep that misses nothing (pure)
`symbols`      what a file defines (pure)
`findings`     what linters say, and what is no Python, JSON or TOML (pure)
`fetch`        one page from the web, bounded, never from a private address
`readable`     HTML as text (pure)
`builtin`      the tools that ship with loomd, a file per tool

    tools (actor) -> nursery -> generation N -> guard of a call -> worker

A tool never writes the checkout: `edit` and `write` compute proposals, commands work on a copy, and
only `apply` touches the disk. Where no review is required commands do write it; what they changed
is journaled as an edit that is applied already. This package's `__init__` loads the contract alone.
"""

from loomd.tools.contract import Context, Proposal, Result, ToolError, tool

__all__ = ["Context", "Proposal", "Result", "ToolError", "tool"]
