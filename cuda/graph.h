// CUDA graphs: ops captured once and launched as one, without the host's work for each.
#pragma once

#include <optional>

#include "cuda/graph_memory.h"
#include "cuda/op_set.h"
#include "ops/queue.h"

namespace moe::cuda {

class CudaGraph final : public Graph {
 public:
  struct Parts {
    Pins inputs;
    std::shared_ptr<GraphMemory> memory;
    OpSet ops;
  };
  CudaGraph(cudaGraph_t captured, Parts parts);

  void launch(cudaStream_t stream) const;
  // Memory that the ops use and the graph did not make. Kept alive by the graph.
  const Pins& inputs() const { return parts_.inputs; }
  OpSet ops() const { return parts_.ops; }

 private:
  struct Destroy {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  Parts parts_;
  std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, Destroy> executable_;
};

// From its construction until end(), what is enqueued on the stream is collected.
class Capture {
 public:
  explicit Capture(std::shared_ptr<Stream> stream);
  ~Capture();
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;

  void add(size_t op, const Pins& pins);
  // An op of the capture failed: there will be no graph.
  void refuse(const Error& error);
  // Throws what was refused.
  std::shared_ptr<CudaGraph> end();

 private:
  std::shared_ptr<Stream> stream_;
  CudaGraph::Parts parts_;
  std::optional<Error> refused_;
  bool ended_ = false;
};

}  // namespace moe::cuda
