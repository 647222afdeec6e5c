"""Language models beside fraud detection, behind a gateway that sends no customer data.

What it does: synthetic fraud (`synthetic`, `validation`, `likeness`, `approval`), traits of transaction descriptions
(`traits`), a second look at alerts (`review`), examples for fine-tuning and a local text head (`examples`,
`text_head`), and what each of them is worth (`comparison`).

How a request comes to be: a caller hands raw values to the gateway (`gateway`). The gateway asks the policy
which columns may leave and in what form (`release`), redacts text (`redact`), fills a versioned prompt
(`prompts`), checks the spend (`account`), looks into the cache (`cache`), and only then lets a provider
answer: `offline` (rules, seeded, the default) or `openai_provider` (the SDK, imported by this module alone).

Importing this package needs neither openai nor a network. docs/assist.md describes its use,
docs/adr/0030-gateway.md its promises.
"""

from __future__ import annotations
