#include "binding/tensors.h"

namespace moe::binding {
namespace {

void account(Napi::BasicEnv env, TensorHandle& handle, int64_t bytes) {
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes - handle.accounted);
  handle.accounting->bytes += bytes - handle.accounted;
  handle.accounted = bytes;
}

void release(Napi::BasicEnv env, TensorHandle& handle) {
  if (!handle.tensor.present) return;
  handle.storage.reset();
  handle.tensor = {};
  handle.accounting->tensors -= 1;
  account(env, handle, 0);
}

Tensor shaped(const Napi::Array& shape, DType dtype) {
  Tensor tensor = {.dtype = dtype, .present = true};
  tensor.rank = static_cast<int>(shape.Length());
  if (tensor.rank > kMaxRank) throw Error(kErrShape, "shape: expected at most 8 dimensions");
  for (int axis = 0; axis < tensor.rank; ++axis) {
    tensor.dims[static_cast<size_t>(axis)] =
        shape.Get(static_cast<uint32_t>(axis)).As<Napi::Number>().Int64Value();
  }
  return tensor;
}

Tensor described(const Napi::CallbackInfo& info) {
  return shaped(info[1].As<Napi::Array>(), static_cast<DType>(info[0].As<Napi::Number>().Uint32Value()));
}

// A handle on a tensor whose data lies in `storage`.
Napi::Value wrapped(Napi::Env env, const Tensor& tensor, int device, std::shared_ptr<Storage> storage,
                    int64_t accounted) {
  auto* handle = new TensorHandle{.storage = std::move(storage),
                                  .tensor = tensor,
                                  .device = device,
                                  .accounting = Environment::of(env).accounting()};
  handle->accounting->tensors += 1;
  account(env, *handle, accounted);
  return Napi::External<TensorHandle>::New(env, handle, [](Napi::BasicEnv finalizing, TensorHandle* data) {
    release(finalizing, *data);
    delete data;
  });
}

Napi::Value allocate(const Napi::CallbackInfo& info) {
  const int device = info[0].As<Napi::Number>().Int32Value();
  Tensor tensor =
      shaped(info[2].As<Napi::Array>(), static_cast<DType>(info[1].As<Napi::Number>().Uint32Value()));
  auto storage = Environment::of(info.Env()).queue(device).allocate(tensor.bytes());
  tensor.data = storage->data();
  const auto accounted = static_cast<int64_t>(tensor.bytes());
  return wrapped(info.Env(), tensor, device, std::move(storage), accounted);
}

Napi::Value wrap(const Napi::CallbackInfo& info) {
  Tensor tensor = described(info);
  const auto view = info[2].As<Napi::TypedArray>();
  const HostBytes bytes = host_bytes(view);
  if (bytes.size < tensor.bytes()) throw Error(kErrShape, "data: expected a buffer as large as the tensor");
  auto storage = Environment::of(info.Env()).lend(view, bytes.data, bytes.size);
  tensor.data = storage->data();
  return wrapped(info.Env(), tensor, 0, std::move(storage), 0);
}

// Memory at an address, of an owner that stays alive meanwhile, or of nobody we know.
Napi::Value from_pointer(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  Tensor tensor = described(info);
  tensor.data = to_address(info[2]);
  const int device = info[3].As<Napi::Number>().Int32Value();
  if (tensor.bytes() > 0) environment.queue(device).check_memory(tensor.data);
  auto storage = info[4].IsUndefined()
                     ? std::make_shared<Storage>(tensor.data, tensor.bytes())
                     : environment.lend(info[4].As<Napi::Object>(), tensor.data, tensor.bytes());
  return wrapped(info.Env(), tensor, device, std::move(storage), 0);
}

Napi::Value pointer(const Napi::CallbackInfo& info) {
  return from_address(info.Env(), handle_of(info[0]).tensor.data);
}

// The same memory under another shape, or a part of it: the shape's elements from element `at` on.
Napi::Value view(const Napi::CallbackInfo& info) {
  const TensorHandle& handle = handle_of(info[0]);
  Tensor tensor = shaped(info[1].As<Napi::Array>(), handle.tensor.dtype);
  const int64_t at = info[2].As<Napi::Number>().Int64Value();
  if (at < 0 || at > handle.tensor.elements() - tensor.elements()) {
    throw Error(kErrShape, "shape: expected elements of the tensor");
  }
  tensor.data = handle.tensor.as<char>() + at * static_cast<int64_t>(bytes_of(tensor.dtype));
  return wrapped(info.Env(), tensor, handle.device, handle.storage, 0);
}

Napi::Value release_handle(const Napi::CallbackInfo& info) {
  release(info.Env(), *info[0].As<Napi::External<TensorHandle>>().Data());
  Environment::of(info.Env()).drop_returned();
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
  if (!value.IsExternal()) throw Error(kErrInvalidArgument, "tensor: expected a native tensor");
  TensorHandle& handle = *value.As<Napi::External<TensorHandle>>().Data();
  if (!handle.tensor.present) throw Error(kErrDisposed, "tensor: expected a live tensor, got a disposed one");
  return handle;
}

void export_tensors(Napi::Env env, Napi::Object exports) {
  exports.Set("allocate", Napi::Function::New(env, guarded<allocate>));
  exports.Set("wrap", Napi::Function::New(env, guarded<wrap>));
  exports.Set("fromPointer", Napi::Function::New(env, guarded<from_pointer>));
  exports.Set("pointer", Napi::Function::New(env, guarded<pointer>));
  exports.Set("release", Napi::Function::New(env, guarded<release_handle>));
  exports.Set("view", Napi::Function::New(env, guarded<view>));
  exports.Set("write", Napi::Function::New(env, guarded<write>));
  exports.Set("readSync", Napi::Function::New(env, guarded<read_sync>));
  exports.Set("read", Napi::Function::New(env, guarded<read>));
}

}  // namespace moe::binding
