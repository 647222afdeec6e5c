"""Encrypted rounds between real processes: Flower carries the messages of `secagg`, and is trusted with nothing.

    server_app.py     ServerApp = aggregator            workflow.py   one round as Flower messages
    client_app.py     ClientApp = bank, under mod.py    key_holder_app.py   ClientApp = key holder
    resident.py       runs a ClientApp from installed code in one process that keeps a round's secrets in memory

`parties.py` is the only module here that imports `secagg`; docs/flower.md has the whole picture and docs/adr/0040 the
reasons. Nothing is imported on `import fl.flower`: the aggregator and the key holder never load torch.
"""
