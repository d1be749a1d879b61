"""Performs model calls: one attempt on one concrete model, and what came of it, classified.

`types`            what crosses from the view to a backend and back: Resolved, Reply (pure)
`view`             a request's view resolved from the state into Resolved
`classify`         any provider's reply or error -> ToolCalls | FinalAnswer | Failed (pure); beyond
                   this file no code looks at a provider's dict
`ratelimits`       a provider's headers -> what is left of its limits
`litellm_backend`  the only import of litellm: conversation -> request -> stream -> reply
`offline`          the model `offline/rules`: no key, no network (pure)
`process`          the actor `gateway-N`, one per generation of code: effects in, outcomes out

models -> gateway `AskPrice`, answered by `Priced` from the price map.
models -> gateway `Perform`; the gateway opens an effect, performs it, and in one commit closes the
effect, mails `Performed` to models and, if the call succeeded, `ModelOutcome` to the agent. It
decides nothing: retries, fallbacks, budgets and limits are `models`'. It alone holds provider keys.
"""
