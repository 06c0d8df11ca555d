"""Behind the port: uvicorn, its connections, and the workers that share them.

- `serve`: from the command line to a service that listens, with one worker or several.
- `choosing`: how many workers there are.
- `workers`: several processes behind one port, each replaced when it dies or hangs.
- `handing`: which of them a connection goes to.
- `port`: where they listen, bound before there is one and closed when nobody waits.
- `owner/`: the process that owns a GPU, and how it is kept.
- `rpc/`: calls of gRPC, carried to the app.
- `transport`: uvicorn's HTTP protocol, with an end to what nobody waits for.
- `writing`: how answers are written.
- `framing`: where a request ends, whatever it offers.
- `greeting`: what a person at a terminal is told once it listens.
- `check`: whether the service that runs here takes requests.
- `doctor`: what a bug report needs.
"""
