#include "binding/tensors.h"

#include <cstdlib>

#include "binding/program.h"

namespace moe::binding {
namespace {

// What V8 is told is this far behind at most: a report of each small tensor would cost more than the tensor.
constexpr int64_t kReportStep = int64_t{1} << 20;

void account(Napi::BasicEnv env, Accounting& accounting, int64_t change) {
  accounting.bytes += change;
  const int64_t unreported = accounting.bytes - accounting.reported;
  if (std::abs(unreported) < kReportStep) return;
  Napi::MemoryManagement::AdjustExternalMemory(env, unreported);
  accounting.reported = accounting.bytes;
}

void release(Napi::BasicEnv env, TensorHandle& handle) {
  if (!handle.tensor.present) return;
  handle.accounting->tensors -= 1;
  account(env, *handle.accounting, -handle.accounted);
  static_cast<HeldTensor&>(handle) = {};
}

Tensor shaped(const Napi::Value& dims, DType dtype) {
  const auto shape = dims.As<Napi::Array>();
  Tensor tensor = {.dtype = dtype, .present = true};
  tensor.rank = static_cast<int>(shape.Length());
  if (tensor.rank > kMaxRank) throw Error(kErrShape, "shape: expected at most 8 dimensions");
  for (int axis = 0; axis < tensor.rank; ++axis) {
    tensor.dims[static_cast<size_t>(axis)] =
        shape.Get(static_cast<uint32_t>(axis)).As<Napi::Number>().Int64Value();
  }
  return tensor;
}

Tensor shaped(const Napi::Value& dims, const Napi::Value& dtype) {
  return shaped(dims, static_cast<DType>(dtype.As<Napi::Number>().Uint32Value()));
}

TensorHandle& external_handle(const Napi::Value& value) {
  if (!value.IsExternal()) throw Error(kErrInvalidArgument, "tensor: expected a native tensor");
  return *value.As<Napi::External<TensorHandle>>().Data();
}

Napi::Value blank(const Napi::CallbackInfo& info) {
  auto* handle = new TensorHandle;
  handle->accounting = Environment::of(info.Env()).accounting();
  return Napi::External<TensorHandle>::New(info.Env(), handle, [](Napi::BasicEnv env, TensorHandle* data) {
    release(env, *data);
    delete data;
  });
}

// Those that make tensors take the blank handle first.
Napi::Value allocate(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  const int device = info[1].As<Napi::Number>().Int32Value();
  Tensor tensor = shaped(info[3], info[2]);
  auto storage = environment.queue(device).allocate(tensor.bytes());
  tensor.data = storage->data();
  TensorHandle& handle = blank_handle(info[0]);
  fill_handle(info.Env(), handle,
              {.storage = std::move(storage),
               .tensor = tensor,
               .device = device,
               .accounted = static_cast<int64_t>(tensor.bytes())});
  if (environment.recording()) environment.recording()->made(handle);
  return info.Env().Undefined();
}

Napi::Value wrap(const Napi::CallbackInfo& info) {
  Tensor tensor = shaped(info[2], info[1]);
  const auto view = info[3].As<Napi::TypedArray>();
  const HostBytes bytes = host_bytes(view);
  if (bytes.size < tensor.bytes()) throw Error(kErrShape, "data: expected a buffer as large as the tensor");
  auto storage = Environment::of(info.Env()).lend(view, bytes.data, bytes.size);
  tensor.data = storage->data();
  fill_handle(info.Env(), blank_handle(info[0]), {.storage = std::move(storage), .tensor = tensor});
  return info.Env().Undefined();
}

// Memory at an address, of an owner that stays alive meanwhile, or of nobody we know.
Napi::Value from_pointer(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  Tensor tensor = shaped(info[2], info[1]);
  tensor.data = to_address(info[3]);
  const int device = info[4].As<Napi::Number>().Int32Value();
  if (tensor.bytes() > 0) environment.queue(device).check_memory(tensor.data);
  auto storage = info[5].IsUndefined()
                     ? std::make_shared<Storage>(tensor.data, tensor.bytes())
                     : environment.lend(info[5].As<Napi::Object>(), tensor.data, tensor.bytes());
  fill_handle(info.Env(), blank_handle(info[0]),
              {.storage = std::move(storage), .tensor = tensor, .device = device});
  return info.Env().Undefined();
}

Napi::Value pointer(const Napi::CallbackInfo& info) {
  return from_address(info.Env(), handle_of(info[0]).tensor.data);
}

// The same memory under another shape, or a part of it: the shape's elements from element `at` on.
Napi::Value view(const Napi::CallbackInfo& info) {
  const TensorHandle& of = handle_of(info[1]);
  Tensor tensor = shaped(info[2], of.tensor.dtype);
  const int64_t at = info[3].As<Napi::Number>().Int64Value();
  if (at < 0 || at > of.tensor.elements() - tensor.elements()) {
    throw Error(kErrShape, "shape: expected elements of the tensor");
  }
  tensor.data = of.tensor.as<char>() + at * static_cast<int64_t>(bytes_of(tensor.dtype));
  TensorHandle& handle = blank_handle(info[0]);
  fill_handle(info.Env(), handle, {.storage = of.storage, .tensor = tensor, .device = of.device});
  const auto& recording = Environment::of(info.Env()).recording();
  if (recording) recording->viewed(handle, of);
  return info.Env().Undefined();
}

Napi::Value release_handle(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  TensorHandle& handle = external_handle(info[0]);
  if (environment.recording()) environment.recording()->released(handle);
  release(info.Env(), handle);
  environment.drop_returned();
  return info.Env().Undefined();
}

// The bytes of a TypedArray, exactly as many as the tensor has.
void* host_data(const Napi::CallbackInfo& info, const Tensor& tensor) {
  const HostBytes bytes = host_bytes(info[1].As<Napi::TypedArray>());
  if (bytes.size != tensor.bytes()) throw Error(kErrShape, "data: expected as many bytes as the tensor");
  return bytes.data;
}

Napi::Value write(const Napi::CallbackInfo& info) {
  const TensorHandle& handle = handle_of(info[0]);
  const void* host = host_data(info, handle.tensor);
  Environment::of(info.Env()).queue(handle.device).write(handle.tensor, {handle.storage}, host);
  return info.Env().Undefined();
}

Napi::Value read_sync(const Napi::CallbackInfo& info) {
  const TensorHandle& handle = handle_of(info[0]);
  void* host = host_data(info, handle.tensor);
  read_blocking(Environment::of(info.Env()).queue(handle.device), handle.tensor, {handle.storage}, host);
  return info.Env().Undefined();
}

// Reads at once what is there, and says whether it was. Never before the promises of earlier reads settle.
Napi::Value read_settled(const Napi::CallbackInfo& info) {
  const TensorHandle& handle = handle_of(info[0]);
  void* host = host_data(info, handle.tensor);
  Environment& environment = Environment::of(info.Env());
  const bool done =
      !environment.is_awaited() && moe::read_settled(environment.queue(handle.device), handle.tensor, host);
  return Napi::Boolean::New(info.Env(), done);
}

Napi::Value read(const Napi::CallbackInfo& info) {
  const TensorHandle& handle = handle_of(info[0]);
  void* host = host_data(info, handle.tensor);
  Environment& environment = Environment::of(info.Env());
  return environment.promise(info.Env(), info[1], [&](Queue::Done done) {
    environment.queue(handle.device).read(handle.tensor, {handle.storage}, host, std::move(done));
  });
}

}  // namespace

TensorHandle& handle_of(Napi::Value value) {
  TensorHandle& handle = external_handle(value);
  if (!handle.tensor.present) throw Error(kErrDisposed, "tensor: expected a live tensor, got a disposed one");
  return handle;
}

TensorHandle& blank_handle(Napi::Value value) {
  TensorHandle& handle = external_handle(value);
  if (handle.tensor.present) throw Error(kErrInvalidArgument, "tensor: expected a blank handle");
  return handle;
}

void fill_handle(Napi::Env env, TensorHandle& blank, HeldTensor held) {
  blank.accounting->tensors += 1;
  account(env, *blank.accounting, held.accounted);
  static_cast<HeldTensor&>(blank) = std::move(held);
}

void export_tensors(Napi::Env env, Napi::Object exports) {
  exports.Set("blank", Napi::Function::New(env, guarded<blank>));
  exports.Set("allocate", Napi::Function::New(env, guarded<allocate>));
  exports.Set("wrap", Napi::Function::New(env, guarded<wrap>));
  exports.Set("fromPointer", Napi::Function::New(env, guarded<from_pointer>));
  exports.Set("pointer", Napi::Function::New(env, guarded<pointer>));
  exports.Set("release", Napi::Function::New(env, guarded<release_handle>));
  exports.Set("view", Napi::Function::New(env, guarded<view>));
  exports.Set("write", Napi::Function::New(env, guarded<write>));
  exports.Set("readSync", Napi::Function::New(env, guarded<read_sync>));
  exports.Set("readSettled", Napi::Function::New(env, guarded<read_settled>));
  exports.Set("read", Napi::Function::New(env, guarded<read>));
}

}  // namespace moe::binding
