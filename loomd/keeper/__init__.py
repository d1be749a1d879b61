"""A keeper holds one stretch of an agent's log at full fidelity and answers for it.

`index`    tokens and BM25 ranking over them (pure)
`memory`   a stretch: exact, search, extract, the line that stands for it (pure)
`process`  the behaviour: asks and mails in, hits out; the entry point

team -> keeper `Recall` (mail or ask, also from any agent through the team and from clients);
keeper -> asker `Recalled`; keeper -> team `KeeperReady`, once; keeper -> models `ModelRequest` with
purpose `ask`. A keeper copies nothing: the bytes stay in the log, where no one can change them; its
index is built at each birth and never saved.
"""
