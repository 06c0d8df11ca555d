"""axe-core, which judges whether everyone can use a page: one release, carried for the tests alone.

`python -m tests.page.axe` fetches it anew from npm. It is of Deque Systems, under the Mozilla Public License 2.0, which
stands at its head.
"""

import gzip
from pathlib import Path

from service.page.vendor import Package, fetch

FILE = Path(__file__).with_name("axe.min.js.gz")
PACKAGE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    {"axe.min.js": "axe.min.js"},
)


def read() -> str:
    """Return the script."""
    return gzip.decompress(FILE.read_bytes()).decode()


if __name__ == "__main__":
    FILE.write_bytes(gzip.compress(fetch(PACKAGE)["axe.min.js"], mtime=0))
