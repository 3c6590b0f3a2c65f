"""gitrel: build, release and run with git itself.

From the top, each importing only what stands below it: `cli`; `build`, `release`, `run`, `audit`; `store`, `trust`;
`format`, `keys`; `ids`; `errors`. What the bytes mean is in `docs/spec/`.
"""

__version__ = "0.1.0"
