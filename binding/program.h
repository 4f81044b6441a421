// Calls that are recorded while they run, and run again as one: the same ops on other tensors of the same
// dtypes and shapes.
#pragma once

#include <napi.h>

#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "binding/args.h"
#include "binding/tensors.h"
#include "ops/program.h"

namespace moe::binding {

// Reads the description of an op, value by value in an order of its own.
using ReadOp = Op (*)(Args&);

// A tensor of a program: bytes from the start of one of its places. Its data is null.
struct PlacedTensor {
  Tensor tensor;
  size_t place = 0;
  ptrdiff_t offset = 0;
};

// The values that the description of an op was read from, in that order.
struct RecordedOp {
  ReadOp read = nullptr;
  std::vector<double> numbers;
  std::vector<PlacedTensor> tensors;
};

// A tensor that the call makes: one of its results, or one that it gives back before it returns.
struct MadeTensor {
  Tensor tensor;
  // Of the results.
  std::optional<size_t> result;
  // In the block that those share that are given back.
  size_t offset = 0;
};

// What a recorded call does. Its places are those of the tensors that it is given, then of those it makes.
class RecordedProgram final : public Program {
 public:
  size_t size() const override { return ops_.size(); }
  Op op(size_t index, std::span<void* const> places) const override;

  int device() const { return device_; }
  const std::vector<Tensor>& given() const { return given_; }
  const std::vector<MadeTensor>& made() const { return made_; }
  // How many of those made are results.
  size_t results() const { return results_; }
  size_t block_bytes() const { return block_bytes_; }

 private:
  friend class Recording;

  int device_ = 0;
  std::vector<Tensor> given_;
  std::vector<MadeTensor> made_;
  size_t results_ = 0;
  size_t block_bytes_ = 0;
  std::vector<RecordedOp> ops_;
};

// Looks on while a call makes tensors and enqueues ops.
class Recording {
 public:
  explicit Recording(const std::vector<TensorHandle*>& given);

  void made(const TensorHandle& handle);
  void viewed(const TensorHandle& view, const TensorHandle& of);
  void released(const TensorHandle& handle);
  // Where a tensor lies that an op uses.
  PlacedTensor placed(const TensorHandle& handle);
  void add(RecordedOp op, int device);

  // Null where running the ops again would not be the same call: it used tensors from elsewhere, several
  // devices, or keeps others than its results.
  std::shared_ptr<const RecordedProgram> end(const std::vector<TensorHandle*>& results);

 private:
  struct Place {
    size_t place = 0;
    ptrdiff_t offset = 0;
    bool view = false;
  };

  std::shared_ptr<RecordedProgram> program_ = std::make_shared<RecordedProgram>();
  std::unordered_map<const TensorHandle*, Place> places_;
  // Of the tensors given.
  std::vector<int> devices_;
  bool lost_ = false;
};

void export_programs(Napi::Env env, Napi::Object exports);

}  // namespace moe::binding
