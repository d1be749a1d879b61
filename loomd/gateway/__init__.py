"""Performs model calls: one attempt on one concrete model, and what came of it, classified.

`types`            what crosses from the view to a backend and back: Resolved, Reply (pure)
`view`             a request's view resolved from the state into Resolved
`classify`         any provider's reply or error -> ToolCalls | FinalAnswer | Failed (pure); beyond
                   this file no code looks at a provider's dict
`clocks`           the four timers of a call, and in which phase it is
`traffic`          connections, headers and bytes of a call, seen where all adapters meet
`keys`             where a provider's key comes from, and how it stays out of what is told
`litellm_backend`  the only import of litellm: conversation -> request -> stream -> reply
`streams`          an answer as it comes, for clients; `calling`: its calls in a chunk (pure)
`offline`          the model `offline/rules`: no key, no network (pure)
`played`           it, and the models `replay/FILE` and `scripted/FILE`; on `replay` (recordings
                   and how a request finds its answer; pure) and `script` (pure)
`recorder`         a session's recording, read from the state
`catalogue`        what is configured, and whether it answers
`process`          the actor `gateway-N`, one per generation of code: effects in, outcomes out

models -> gateway `Perform`; the gateway opens an effect, performs it, and in one commit closes the
effect, mails `Performed` to models and, if the call succeeded, `ModelOutcome` to the agent. It
decides nothing: retries, fallbacks, budgets and limits are `models`'. It alone holds provider keys.
"""
