"""How fast something is: ratios taken in one run on one machine.

- `service`: the service beside its peers and the raw limit.
- `tune`: the fastest settings of a peer.
- `scale`: the service and its peers by CPUs.
- `workers`: the service with one worker and with more.
- `gpu`: encoders on CUDA, proven and timed beside torch.
- `ledger`: what each layer costs a request, in instructions.
- `counted`, `bytecodes`: what the ledger counts: under callgrind, or the interpreter's own.
- `measure`, `raw`: its loops over one server, and ONNX Runtime alone.
- `report`, `plot`: its tables and figures.
- `codecs`: decoding and encoding each format.
- `rpc`: gRPC beside npz and JSON over HTTP.
- `bulk`: files encoded, beside the raw limit and what people write.
- `today`: what people write.
- `cost`: predicted times of runs, against measured ones.
- `schedule`: the queue alone.
- `replicas`: many services, and how requests are routed among them, under a simulated clock.
- `simulated`: its replicas, arrivals and clock.
- `start`: from process start to ready.
- `training`: sequences a second in training.
- `distil`: a distilled student beside its teacher and beside averaged word vectors.
- `bert`: the teacher, for ONNX Runtime.
- `path`: what a request passes.
"""
