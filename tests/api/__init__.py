"""Requests over HTTP, in process or over sockets."""
