#include "cuda/graph.h"

#include <algorithm>

namespace moe::cuda {
namespace {

struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
using Captured = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;

}  // namespace

CudaGraph::CudaGraph(cudaGraph_t captured, Parts parts) : parts_(std::move(parts)) {
  cudaGraphExec_t executable = nullptr;
  check(cudaGraphInstantiate(&executable, captured), "cudaGraphInstantiate");
  executable_.reset(executable);
}

void CudaGraph::launch(cudaStream_t stream) const {
  check(cudaGraphLaunch(executable_.get(), stream), "cudaGraphLaunch");
}

Capture::Capture(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {
  parts_.memory = std::make_shared<GraphMemory>(stream_);
  stream_->begin_capture(parts_.memory);
}

Capture::~Capture() {
  if (ended_) return;
  cudaGraph_t graph = nullptr;
  stream_->end_capture(&graph);
  const Captured unused(graph);
  try {
    parts_.memory->seal();
  } catch (const Error&) {
    // The device is lost, and its memory with it.
  }
}

void Capture::add(size_t op, const Pins& pins) {
  parts_.ops.add(op);
  for (const std::shared_ptr<Storage>& pin : pins) {
    if (!parts_.memory->owns(*pin)) parts_.inputs.push_back(pin);
  }
}

void Capture::refuse(const Error& error) {
  if (!refused_) refused_ = error;
}

std::shared_ptr<CudaGraph> Capture::end() {
  ended_ = true;
  cudaGraph_t graph = nullptr;
  const cudaError_t status = stream_->end_capture(&graph);
  const Captured captured(graph);
  parts_.memory->seal();
  if (refused_) throw Error(*refused_);
  check(status, "cudaStreamEndCapture");
  // One pin for each, however many ops use it.
  std::sort(parts_.inputs.begin(), parts_.inputs.end());
  parts_.inputs.erase(std::unique(parts_.inputs.begin(), parts_.inputs.end()), parts_.inputs.end());
  return std::make_shared<CudaGraph>(captured.get(), std::move(parts_));
}

}  // namespace moe::cuda
