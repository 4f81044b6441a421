#include "binding/program.h"

#include <algorithm>

#include "binding/share.h"

namespace moe::binding {
namespace {

// What every backend's memory is aligned to at least.
constexpr size_t kAlignment = 256;

bool same_shape(const Tensor& a, const Tensor& b) {
  return a.dtype == b.dtype && std::ranges::equal(a.shape(), b.shape());
}

// The values of a recorded op, in their order.
class RecordedArgs final : public Args {
 public:
  RecordedArgs(const RecordedOp& op, std::span<void* const> places)
      : number_(op.numbers.data()), tensor_(op.tensors.data()), places_(places) {}

  Tensor tensor(const char* /*name*/) override {
    const PlacedTensor& placed = *tensor_++;
    Tensor tensor = placed.tensor;
    if (tensor) tensor.data = static_cast<char*>(places_[placed.place]) + placed.offset;
    return tensor;
  }
  double number(const char* /*name*/) override { return *number_++; }

 private:
  const double* number_;
  const PlacedTensor* tensor_;
  const std::span<void* const> places_;
};

}  // namespace

Op RecordedProgram::op(size_t index, std::span<void* const> places) const {
  RecordedArgs args(ops_[index], places);
  return ops_[index].read(args);
}

Recording::Recording(const std::vector<TensorHandle*>& given) {
  for (const TensorHandle* handle : given) {
    places_[handle] = {.place = program_->given_.size()};
    program_->given_.push_back(handle->tensor);
    devices_.push_back(handle->device);
  }
}

void Recording::made(const TensorHandle& handle) {
  places_[&handle] = {.place = program_->given_.size() + program_->made_.size()};
  program_->made_.push_back({.tensor = handle.tensor});
}

void Recording::viewed(const TensorHandle& view, const TensorHandle& of) {
  const auto found = places_.find(&of);
  if (found == places_.end()) return;
  const ptrdiff_t offset = view.tensor.as<char>() - of.tensor.as<char>();
  places_[&view] = {.place = found->second.place, .offset = found->second.offset + offset, .view = true};
}

void Recording::released(const TensorHandle& handle) {
  const auto found = places_.find(&handle);
  if (found == places_.end()) return;
  // Only what the call made itself may it give back.
  lost_ = lost_ || (!found->second.view && found->second.place < program_->given_.size());
  places_.erase(found);
}

PlacedTensor Recording::placed(const TensorHandle& handle) {
  PlacedTensor placed = {.tensor = handle.tensor};
  placed.tensor.data = nullptr;
  const auto found = places_.find(&handle);
  lost_ = lost_ || found == places_.end();
  if (lost_) return placed;
  placed.place = found->second.place;
  placed.offset = found->second.offset;
  return placed;
}

void Recording::add(RecordedOp op, int device) {
  lost_ = lost_ || (!program_->ops_.empty() && program_->device_ != device);
  program_->device_ = device;
  program_->ops_.push_back(std::move(op));
}

std::shared_ptr<const RecordedProgram> Recording::end(const std::vector<TensorHandle*>& results) {
  RecordedProgram& program = *program_;
  const size_t given = program.given_.size();
  for (const TensorHandle* handle : results) {
    const auto found = places_.find(handle);
    if (found == places_.end() || found->second.view || found->second.place < given) return nullptr;
    program.made_[found->second.place - given].result = program.results_++;
    places_.erase(found);
  }
  for (int device : devices_) lost_ = lost_ || device != program.device_;
  for (const auto& [handle, place] : places_) lost_ = lost_ || place.view || place.place >= given;
  if (lost_ || program.ops_.empty()) return nullptr;
  for (MadeTensor& made : program.made_) {
    made.tensor.data = nullptr;
    if (made.result) continue;
    made.offset = program.block_bytes_;
    program.block_bytes_ += (made.tensor.bytes() / kAlignment + 1) * kAlignment;
  }
  return program_;
}

namespace {

using SharedProgram = std::shared_ptr<const RecordedProgram>;

std::vector<TensorHandle*> handles_from(const Napi::CallbackInfo& info, size_t first) {
  std::vector<TensorHandle*> handles;
  handles.reserve(info.Length());
  for (size_t i = first; i < info.Length(); ++i) handles.push_back(&handle_of(info[i]));
  return handles;
}

Napi::Value begin_recording(const Napi::CallbackInfo& info) {
  Environment::of(info.Env()).recording() = std::make_unique<Recording>(handles_from(info, 0));
  return info.Env().Undefined();
}

// Ends it in any case. Undefined where the call cannot be run again.
Napi::Value end_recording(const Napi::CallbackInfo& info) {
  const auto recording = std::exchange(Environment::of(info.Env()).recording(), nullptr);
  SharedProgram program = recording->end(handles_from(info, 0));
  return program ? share(info.Env(), std::move(program)) : info.Env().Undefined();
}

// Runs a program on the tensors that it is given, and fills blank handles with its results.
Napi::Value run_program(const Napi::CallbackInfo& info) {
  const SharedProgram program = shared<const RecordedProgram>(info[0]);
  Queue& queue = Environment::of(info.Env()).queue(program->device());
  ProgramRun run = {.program = program};
  const size_t given = program->given().size();
  run.places.reserve(given + program->made().size());
  run.pins.reserve(given + program->results() + 1);
  for (size_t i = 0; i < given; ++i) {
    const TensorHandle& handle = handle_of(info[1 + i]);
    // As validated as those of the call that was recorded.
    if (handle.device != program->device() || !same_shape(handle.tensor, program->given()[i]))
      throw Error(kErrShape, "tensors: expected dtypes and shapes as recorded");
    run.places.push_back(handle.tensor.data);
    run.pins.push_back(handle.storage);
  }
  std::vector<std::shared_ptr<Storage>> results(program->results());
  std::shared_ptr<Storage> block;
  if (program->block_bytes() > 0) block = queue.allocate(program->block_bytes());
  for (const MadeTensor& made : program->made()) {
    if (made.result) results[*made.result] = queue.allocate(made.tensor.bytes());
    run.places.push_back(made.result ? results[*made.result]->data()
                                     : static_cast<char*>(block->data()) + made.offset);
  }
  run.pins.insert(run.pins.end(), results.begin(), results.end());
  if (block) run.pins.push_back(std::move(block));
  queue.submit_all(std::move(run));
  for (const MadeTensor& made : program->made()) {
    if (!made.result) continue;
    Tensor tensor = made.tensor;
    tensor.data = results[*made.result]->data();
    fill_handle(info.Env(), blank_handle(info[1 + given + *made.result]),
                {.storage = std::move(results[*made.result]),
                 .tensor = tensor,
                 .device = program->device(),
                 .accounted = static_cast<int64_t>(tensor.bytes())});
  }
  return info.Env().Undefined();
}

}  // namespace

void export_programs(Napi::Env env, Napi::Object exports) {
  exports.Set("beginRecording", Napi::Function::New(env, guarded<begin_recording>));
  exports.Set("endRecording", Napi::Function::New(env, guarded<end_recording>));
  exports.Set("run", Napi::Function::New(env, guarded<run_program>));
}

}  // namespace moe::binding
