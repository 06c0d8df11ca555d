#!/bin/sh
# Encode with curl: sh examples/encode.sh [URL]
set -eu
url=${1:-http://localhost:8000}

# One request, one answer.
curl -sS --fail-with-body "$url/encode" -H 'Content-Type: application/json' -d @examples/two-utterances.json
echo

# A stream: a sequence a line in, an answer a line out, as long as you like. curl reads while it sends.
step='[1.6,0.0,0.4,-0.4,-0.1,-0.7,-0.2,0.3,-0.1,0.0,0.0,0.1]'
printf "[$step]\n[$step,$step]\n[$step,1]\n" |
  curl -sS --fail-with-body -N -X POST -T - "$url/encode?encoding_format=base64" -H 'Content-Type: application/x-ndjson'
