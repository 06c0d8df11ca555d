"""The documentation, and what writes into it what the code knows.

`generate` fills the marked blocks of the pages, `from_service` asks a running service, `from_code` reads the code,
`tables` is the Markdown of both, and `drawing` draws the architecture. `screenshots` takes pictures of the page.
`notebooks` runs the pages of the gallery, and `figures` is how their pictures look.
"""
