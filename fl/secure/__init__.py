"""The session with `secagg`: nothing else in `fl`, beside `fl.flower`, imports it."""
