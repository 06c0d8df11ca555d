"""Opens stores by their addresses: pyarrow, or fsspec if pyarrow does not know them; keys are in the environment."""

import os
from functools import lru_cache
from typing import Any

import pyarrow as pa
from pyarrow import fs

from bulk.mistakes import BulkError

AZURE = "abfs", "abfss"
GOOGLE = "gs", "gcs"
RETRY = "retry_limit_seconds"
RETRY_SECONDS = 60  # Google's client tries for 19 minutes by itself, without keys too
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")  # of what speaks S3's protocol and is not Amazon's
AZURE_KEYS = {"account_key": "AZURE_STORAGE_KEY", "sas_token": "AZURE_STORAGE_SAS_TOKEN"}  # as its tools have them


def open_store(scheme: str, host: str, query: str) -> tuple[Any, str]:
    """Return a file system, and what the paths of a host begin with there.

    Args:
        scheme: `s3`, say.
        host: the bucket, or whatever else lies between `://` and the next `/`.
        query: options, from the `?` on.

    Raises:
        BulkError: it is a store that nothing here can open.
    """
    if scheme == "s3":
        query = _add_options(query)
    elif scheme in GOOGLE and RETRY not in query:
        query += f"{'&' if query else '?'}{RETRY}={RETRY_SECONDS}"
    keys = [(name, os.environ[variable]) for name, variable in AZURE_KEYS.items() if os.environ.get(variable)]
    return _open(scheme, host, query, *(keys[0] if keys and scheme in AZURE else ("", "")))


@lru_cache
def _open(scheme: str, host: str, query: str, key_name: str, key: str) -> tuple[Any, str]:
    if scheme == "file":
        return fs.LocalFileSystem(), ""
    address = f"{scheme}://{host}"
    try:
        files, root = fs.FileSystem.from_uri(address + query)
        return _add_key(files, {key_name: key}) if key else files, root.rstrip("/")
    except (pa.ArrowException, OSError, ValueError) as error:
        if "Unrecognized filesystem type" not in str(error):
            raise BulkError(f"{address} cannot be opened: {error}") from error
    try:
        import fsspec  # noqa: PLC0415 - only stores that pyarrow does not know need it

        files, root = fsspec.core.url_to_fs(address + query, use_listings_cache=False)
    except (ImportError, OSError, ValueError) as error:
        raise BulkError(f"{address} cannot be opened, neither by pyarrow nor by fsspec: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(files)), root.rstrip("/")


def _add_key(files: Any, key: dict[str, str]) -> Any:
    """Return an account of Azure's opened with a key, which pyarrow takes of no environment and no address."""
    _, (told,) = files.__reduce__()
    given = {name: value for name, value in told.items() if value}
    return files if "client_id" in given else fs.AzureFileSystem(**given, **key)


def _add_options(query: str) -> str:
    """Return the options of S3 in an address, and those that everybody wants."""
    query += f"{'&' if query else '?'}allow_delayed_open=true"  # what is small is put by one request in place of three
    endpoint = next(filter(None, map(os.environ.get, ENDPOINTS)), None)
    if endpoint and "endpoint_override=" not in query:
        protocol, _, server = endpoint.rpartition("://")
        query += f"&scheme={protocol or 'https'}&endpoint_override={server.rstrip('/')}"
    return query
