"""The pages that a browser gets: static files, and what reads them.

- `files`: a static file as it is answered: its bytes, plain and compressed, its type and its tag.
- `vendor`: fetches other projects' files from npm, checks them, and keeps their licences.

`page/` holds the page at `/`, and `docs/` the reader of the OpenAPI document. Both are plain modules of JavaScript
that a browser runs as they stand; the page takes its colours and icon from `docs/`, which is always there.
`page/vendor/` holds what others wrote, with their licences.
"""
