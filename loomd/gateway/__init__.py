"""Performs model calls: one attempt on one concrete model, and what came of it, classified.

`types`            what crosses from the view to a backend and back: Resolved, Reply (pure)
`view`             a request's view resolved from the state into Resolved
`caching`          where a provider is told to keep what it has read (pure)
`classify`         an answer, as it came -> ToolCalls | FinalAnswer | Failed (pure); beyond it and
                   what it stands on no code looks at a provider's dict. It stands on (all pure):
    `events`       a server's bytes -> the objects that it sent
    `assembly`     their pieces put together: `Answer`
    `arguments`    a call's arguments; `lenient` reads JSON as models write it
    `offered`      which of the offered tools a name means
    `written`      calls written into the text, told from answers that quote one
    `thoughts`     thoughts written into the text
    `counts`       tokens and money; `storable`: what no message can hold
    `repairs`      the kinds of what is mended, each noted in the outcome
    `failure`      errors of servers, of the client library and of our clocks -> Failed
`source`           an answer on its way: a connection -> plain dicts, one a chunk
`clocks`           the four timers of a call, and in which phase it is
`traffic`          connections, headers and bytes of a call, seen where all adapters meet
`raised`           what a client library has raised -> Failed
`keys`             where a provider's key comes from, and how it stays out of what is told
`ratelimits`       a provider's headers -> what is left of its limits
`litellm_backend`  the only import of litellm: conversation -> request -> stream -> reply
`streams`          an answer as it comes, for clients
`offline`          the model `offline/rules`: no key, no network (pure)
`played`           it, and the models `replay/FILE` and `scripted/FILE`; on `replay` (recordings
                   and how a request finds its answer; pure) and `script` (pure)
`recorder`         a session's recording, read from the state
`catalogue`        what is configured, and how it is asked for a word
`process`          the actor `gateway-N`, several per generation of code: effects in, outcomes out

models -> gateway `AskPrice`, answered by `Priced` from the price map.
models -> gateway `Perform`; the gateway opens an effect, performs it, and in one commit closes the
effect, mails `Performed` to models and, if the call succeeded, `ModelOutcome` to the agent. It
decides nothing: retries, fallbacks, budgets and limits are `models`'. It alone holds provider keys.
"""
