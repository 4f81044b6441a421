// Stream capture and graphs. A graph keeps the order in which its work was captured, one of those that its
// edges allow.
#include <algorithm>

#include "state.h"

namespace simt {
namespace {

cudaStreamCaptureMode& thread_mode() {
  thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  return mode;
}

bool binds_this_thread(const Capture& capture) {
  if (thread_mode() == cudaStreamCaptureModeRelaxed || capture.mode == cudaStreamCaptureModeRelaxed)
    return false;
  if (capture.thread == std::this_thread::get_id()) return true;
  return capture.mode == cudaStreamCaptureModeGlobal && thread_mode() == cudaStreamCaptureModeGlobal;
}

// Work of forked streams that the origin was not made to wait for.
bool has_unjoined_work(const Capture& capture, CUstream_st& origin) {
  return std::any_of(capture.members.begin(), capture.members.end(), [&](const StreamPointer& member) {
    return member.get() != &origin && origin.clock[member.get()] < member->clock[member.get()];
  });
}

void end(const std::shared_ptr<Capture>& capture) {
  for (const StreamPointer& member : capture->members) member->capture.reset();
  runtime().captures.erase(capture);
}

}  // namespace

bool forbidden_by_capture() {
  bool forbidden = false;
  for (const auto& capture : runtime().captures) {
    if (!binds_this_thread(*capture)) continue;
    capture->invalid = true;
    forbidden = true;
  }
  return forbidden;
}

}  // namespace simt

using namespace simt;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  if (found->legacy) return result(cudaErrorStreamCaptureUnsupported);
  if (found->capture) return result(cudaErrorIllegalState);
  auto capture = std::make_shared<Capture>();
  capture->mode = mode;
  capture->thread = std::this_thread::get_id();
  capture->origin = found.get();
  capture->members.push_back(found);
  found->capture = capture;
  found->clock.clear();
  runtime().captures.insert(std::move(capture));
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found) return result(cudaErrorInvalidResourceHandle);
  if (graph == nullptr) return result(cudaErrorInvalidValue);
  *graph = nullptr;
  const std::shared_ptr<Capture> capture = found->capture;
  if (!capture) return result(cudaErrorIllegalState);
  if (capture->origin != found.get()) {
    capture->invalid = true;
    return result(cudaErrorStreamCaptureUnmatched);
  }
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
    return result(cudaErrorStreamCaptureWrongThread);
  }
  end(capture);
  if (capture->invalid) return result(cudaErrorStreamCaptureInvalidated);
  if (has_unjoined_work(*capture, *found)) return result(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{.nodes = std::move(capture->nodes), .memory = std::move(capture->memory)};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (!found || status == nullptr) return result(cudaErrorInvalidResourceHandle);
  *status = !found->capture           ? cudaStreamCaptureStatusNone
            : found->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  if (mode == nullptr) return result(cudaErrorInvalidValue);
  std::swap(*mode, thread_mode());
  return cudaSuccess;
}

// Only counts: NODES must be null.
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, CUgraphNode_st** nodes, size_t* count) {
  if (graph == nullptr || count == nullptr) return result(cudaErrorInvalidValue);
  if (nodes != nullptr) return result(cudaErrorNotSupported);
  *count = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  if (executable == nullptr || graph == nullptr) return result(cudaErrorInvalidValue);
  if (flags != 0) return result(cudaErrorNotSupported);
  *executable = new CUgraphExec_st{*graph};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  Lock lock(runtime().lock);
  const StreamPointer found = find_stream(stream);
  if (executable == nullptr || !found) return result(cudaErrorInvalidResourceHandle);
  for (const Action& node : executable->nodes) {
    // The memory of the graph lives as long as work that uses it.
    const auto keep = executable->memory;
    const cudaError_t error = enqueue(lock, found, [node, keep] { return node(); });
    if (error != cudaSuccess) return result(error);
  }
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
