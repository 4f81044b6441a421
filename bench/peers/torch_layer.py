"""The layer in PyTorch, as a contender that speaks the protocol of protocol.ts: float32 and bfloat16, forward and, through autograd,
backward, on the CPU or a GPU. The experts' products are `grouped_mm` where this PyTorch has it there for the dtype, or one product per
expert: whichever is faster on the task at hand."""

import ctypes
import json
import os
import sys
import time

import torch
import torch.nn.functional as F

GROUPED_MM = getattr(F, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)


def swiglu(rows):
    gate, up = rows.chunk(2, dim=-1)
    return F.silu(gate) * up


ACTIVATIONS = {
    "swiglu": swiglu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda rows: F.gelu(rows, approximate="tanh"),
    "silu": F.silu,
    "identity": lambda rows: rows,
}


def grouped(rows, weight, counts):
    """rows [R, K], expert by expert, times weight [E, N, K]."""
    offsets = counts.cumsum(0, dtype=torch.int32)
    return GROUPED_MM(rows, weight.transpose(-2, -1), offs=offsets)


def one_by_one(rows, weight, counts):
    # unbind, for the gradient of an index would be a whole weight of zeros for every expert.
    parts = zip(rows.split(counts.tolist()), weight.unbind(0))
    return torch.cat([F.linear(part, matrix) for part, matrix in parts if len(part) > 0])


WAYS = {"one product per expert": one_by_one, **({"grouped_mm": grouped} if GROUPED_MM else {})}


def tensor_file(folder, name):
    return os.path.join(folder, f"{name}.f32")


def read(folder, name, shape, dtype, device):
    path = tensor_file(folder, name)
    count = os.path.getsize(path) // 4
    mapped = torch.from_file(path, shared=False, size=count, dtype=torch.float32)
    return mapped.to(device, dtype, copy=True).view(shape)


def write(folder, name, tensor):
    values = tensor.detach().float().cpu().contiguous()
    with open(tensor_file(folder, name), "wb") as file:
        file.write((ctypes.c_char * (4 * values.numel())).from_address(values.data_ptr()))


class Layer:
    def __init__(self, task, folder):
        shape = task["shape"]
        self.top_k, self.experts = shape["topK"], shape["experts"]
        tokens, hidden, intermediate = shape["tokens"], shape["hidden"], shape["intermediate"]
        self.activation = ACTIVATIONS[shape["activation"]]
        self.passes = task["pass"]
        self.backward = self.passes != "forward"
        self.device = torch.device(task["device"])
        up_rows = 2 * intermediate if shape["activation"] == "swiglu" else intermediate
        dtype = getattr(torch, task["dtype"])
        sizes = {
            "x": (tokens, hidden),
            "router": (self.experts, hidden),
            "up": (self.experts, up_rows, hidden),
            "down": (self.experts, hidden, intermediate),
        }
        self.tensors = {name: read(folder, name, size, dtype, self.device) for name, size in sizes.items()}
        for tensor in self.tensors.values():
            tensor.requires_grad_(self.backward)
        self.dy = read(folder, "dy", (tokens, hidden), dtype, self.device) if self.backward else None
        self.y = None
        self.way = min(WAYS, key=self.seconds)

    def prepare(self):
        """What a pass needs and does not count."""
        if self.passes == "backward":
            self.y = self.forward(WAYS[self.way])
            self.finish()

    def run(self):
        if self.passes != "backward":
            with torch.inference_mode(not self.backward):
                self.y = self.forward(WAYS[self.way])
        if self.backward:
            self.y.backward(self.dy)
        self.finish()

    def finish(self):
        """Waits for a GPU, which computes what was asked for after the call has returned."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def clear(self):
        self.y = None
        for tensor in self.tensors.values():
            tensor.grad = None

    def results(self):
        results = {"y": self.y}
        if self.backward:
            some = sorted({0, self.experts - 1})
            results["dx"] = self.tensors["x"].grad
            results["d.router"] = self.tensors["router"].grad
            results["d.up"] = self.tensors["up"].grad[some]
            results["d.down"] = self.tensors["down"].grad[some]
        return results

    def forward(self, product):
        x, router, up, down = self.tensors.values()
        # Routing is in float32, as it is in the other contenders.
        probabilities = F.linear(x.float(), router.float()).softmax(dim=-1)
        weights, experts = probabilities.topk(self.top_k, dim=-1)
        if self.top_k > 1:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        slots = experts.flatten().argsort(stable=True)
        counts = experts.flatten().bincount(minlength=self.experts)
        rows = self.activation(product(x[slots // self.top_k], up, counts))
        outputs = product(rows, down, counts)
        places = torch.empty_like(slots)
        places[slots] = torch.arange(len(slots), device=slots.device)
        routed = outputs[places].view(*weights.shape, -1)
        return (routed * weights.to(routed.dtype).unsqueeze(-1)).sum(dim=1)

    def seconds(self, way):
        """Of the second run; endless where the way does not exist for this dtype or processor."""
        self.way = way
        try:
            self.timed_run()
            return self.timed_run()
        except (RuntimeError, NotImplementedError):
            return float("inf")

    def timed_run(self):
        self.prepare()
        start = time.perf_counter()
        self.run()
        elapsed = time.perf_counter() - start
        self.clear()
        return elapsed


class Contender:
    def load(self, request):
        task = request["task"]
        torch.set_num_threads(task["threads"])
        torch.backends.cuda.matmul.allow_tf32 = task["tf32"]
        self.folder = request["folder"]
        self.layer = Layer(task, self.folder)
        return {"version": f"{torch.__version__}, {self.layer.way}", "threads": torch.get_num_threads()}

    def check(self, request):
        self.layer.prepare()
        self.layer.run()
        results = self.layer.results()
        for name, tensor in results.items():
            write(self.folder, f"{request['prefix']}.{name}", tensor)
        self.layer.clear()
        return {"results": list(results)}

    def run(self, request):
        return {"ms": [1000 * self.layer.timed_run() for _ in range(request["times"])]}


def main():
    contender = Contender()
    with os.fdopen(3, "w") as replies:
        for line in sys.stdin:
            request = json.loads(line)
            try:
                reply = getattr(contender, request["do"])(request)
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(reply), file=replies, flush=True)


main()
