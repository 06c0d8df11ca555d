-- What `bench.load.wrk` tells wrk: the requests of a file in turn, and at the end one line of figures.
-- The file: a line with the number of requests, a line with the bytes of each, and then the requests end to end.

local threads = 0

function setup(thread)
    thread:set("first", threads * 37) -- so that no two threads send the same at once
    threads = threads + 1
end

function init(arguments)
    local file = assert(io.open(arguments[1], "rb"))
    local count = file:read("*n")
    local sizes = {}
    for place = 1, count do
        sizes[place] = file:read("*n")
    end
    file:read("*l")
    requests = {}
    for place = 1, count do
        requests[place] = file:read(sizes[place])
    end
    file:close()
    number = count
    place = first % count
end

function request()
    place = place % number + 1
    return requests[place]
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        "\nfound %d %d %d %d %d %d %d\n", summary.requests, summary.duration, latency:percentile(50),
        latency:percentile(99), errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
