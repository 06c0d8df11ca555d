"""The process: settings, connections, where a request ends, and several processes."""
