// The addon's exports: enumerations, what was found on this machine, waiting, and everything of tensors.cpp,
// order.cpp, ops.cpp and program.cpp.
#include <napi.h>

#include "binding/environment.h"
#include "binding/ops.h"
#include "binding/order.h"
#include "binding/program.h"
#include "binding/tensors.h"
#include "cpu/ceilings.h"
#include "cpu/kernels.h"
#include "cpu/memory.h"
#include "cpu/ruler.h"
#include "cpu/thread_pool.h"
#include "ops/gpus.h"
#include "ops/precision.h"

namespace moe::binding {
namespace {

template <class Names>
Napi::Array name_list(Napi::Env env, const Names& names) {
  auto list = Napi::Array::New(env);
  for (const char* name : names) list.Set(list.Length(), name);
  return list;
}

Napi::Object enumerations(Napi::Env env) {
  auto enums = Napi::Object::New(env);
  enums.Set("dtype", name_list(env, kDTypeNames));
  enums.Set("activation", name_list(env, kActivationNames));
  enums.Set("score", name_list(env, kScoreNames));
  enums.Set("softmaxOver", name_list(env, kSoftmaxOverNames));
  enums.Set("groupScore", name_list(env, kGroupScoreNames));
  enums.Set("choice", name_list(env, kChoiceNames));
  enums.Set("dropPolicy", name_list(env, kDropPolicyNames));
  enums.Set("noiseKind", name_list(env, kNoiseKindNames));
  enums.Set("float32Matmul", name_list(env, kFloat32MatmulNames));
  return enums;
}

Napi::Value info(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  auto found = Napi::Object::New(env);
  found.Set("instructionSet", cpu::kernels().name);
  auto sets = Napi::Array::New(env);
  const cpu::KernelList& list = cpu::available_kernels();
  for (int i = 0; i < list.count; ++i) sets.Set(static_cast<uint32_t>(i), list.tables[i]->name);
  found.Set("instructionSets", sets);
  found.Set("cores", cpu::available_cores());
  found.Set("cuda", cuda::describe());
  auto gpus = Napi::Array::New(env);
  for (const cuda::Gpu& each : cuda::gpus()) {
    auto gpu = Napi::Object::New(env);
    gpu.Set("index", each.index);
    gpu.Set("name", each.name);
    gpu.Set("computeCapability", each.compute_capability);
    gpu.Set("l2Bytes", static_cast<double>(each.l2_bytes));
    gpu.Set("memoryBytes", static_cast<double>(each.memory_bytes));
    gpu.Set("clockMHz", each.clock_khz / 1000);
    gpus.Set(gpus.Length(), gpu);
  }
  found.Set("gpus", gpus);
  found.Set("cudaDriver", cuda::driver_version());
  found.Set("cudaRuntime", cuda::runtime_version());
  return found;
}

Napi::Value memory(const Napi::CallbackInfo& call) {
  const Accounting& accounting = *Environment::of(call.Env()).accounting();
  auto used = Napi::Object::New(call.Env());
  used.Set("tensors", static_cast<double>(accounting.tensors));
  used.Set("bytes", static_cast<double>(accounting.bytes));
  used.Set("pooledBytes", static_cast<double>(cpu::pooled_bytes()));
  used.Set("pinnedBytes", static_cast<double>(cuda::pinned_bytes()));
  auto pools = Napi::Array::New(call.Env());
  for (const cuda::PoolUse& each : cuda::pools()) {
    auto pool = Napi::Object::New(call.Env());
    pool.Set("gpu", each.gpu);
    pool.Set("inUse", static_cast<double>(each.in_use));
    pool.Set("reserved", static_cast<double>(each.reserved));
    pool.Set("peak", static_cast<double>(each.peak));
    pools.Set(pools.Length(), pool);
  }
  used.Set("pools", pools);
  return used;
}

Napi::Value trim_pool(const Napi::CallbackInfo& call) {
  cpu::trim_pool();
  cuda::trim_pools();
  return call.Env().Undefined();
}

Napi::Value restart_peak(const Napi::CallbackInfo& call) {
  const int device = call[0].As<Napi::Number>().Int32Value();
  const uint64_t peak = device == 0 ? cpu::restart_peak() : cuda::restart_peak(device - 1);
  return Napi::Number::New(call.Env(), static_cast<double>(peak));
}

Napi::Value set_threads(const Napi::CallbackInfo& call) {
  cpu::ThreadPool::instance().set_threads(call[0].As<Napi::Number>().Int32Value());
  return call.Env().Undefined();
}

Napi::Value get_threads(const Napi::CallbackInfo& call) {
  return Napi::Number::New(call.Env(), cpu::ThreadPool::instance().threads());
}

Napi::Value set_float32_matmul(const Napi::CallbackInfo& call) {
  float32_matmul() = static_cast<Float32Matmul>(call[0].As<Napi::Number>().Int32Value());
  return call.Env().Undefined();
}

Napi::Value get_float32_matmul(const Napi::CallbackInfo& call) {
  return Napi::Number::New(call.Env(), static_cast<int>(float32_matmul().load()));
}

Napi::Value ceilings(const Napi::CallbackInfo& call) {
  const auto dtype = static_cast<DType>(call[0].As<Napi::Number>().Int32Value());
  const cpu::Ceilings found = cpu::measure_ceilings(dtype, call[1].As<Napi::Number>().DoubleValue());
  auto result = Napi::Object::New(call.Env());
  result.Set("flops", found.flops);
  result.Set("bytes", found.bytes);
  return result;
}

Napi::Value ruler(const Napi::CallbackInfo& call) {
  return Napi::Number::New(call.Env(), cpu::ruler());
}

Napi::Value synchronize(const Napi::CallbackInfo& call) {
  wait_for(Environment::of(call.Env()).queue(call[0].As<Napi::Number>().Int32Value()));
  return call.Env().Undefined();
}

Napi::Value finished(const Napi::CallbackInfo& call) {
  const int device = call[0].As<Napi::Number>().Int32Value();
  Environment& environment = Environment::of(call.Env());
  return environment.promise(call.Env(), call.Env().Undefined(),
                             [&](Queue::Done done) { environment.queue(device).then(std::move(done)); });
}

Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  try {
    cpu::kernels();
  } catch (const Error& error) {
    throw to_javascript(env, error);
  }
  env.SetInstanceData(new Environment(env));
  exports.Set("enums", enumerations(env));
  exports.Set("info", Napi::Function::New(env, guarded<info>));
  exports.Set("memory", Napi::Function::New(env, guarded<memory>));
  exports.Set("trimPool", Napi::Function::New(env, guarded<trim_pool>));
  exports.Set("restartPeak", Napi::Function::New(env, guarded<restart_peak>));
  exports.Set("setThreads", Napi::Function::New(env, guarded<set_threads>));
  exports.Set("getThreads", Napi::Function::New(env, guarded<get_threads>));
  exports.Set("setFloat32Matmul", Napi::Function::New(env, guarded<set_float32_matmul>));
  exports.Set("getFloat32Matmul", Napi::Function::New(env, guarded<get_float32_matmul>));
  exports.Set("ceilings", Napi::Function::New(env, guarded<ceilings>));
  exports.Set("ruler", Napi::Function::New(env, guarded<ruler>));
  exports.Set("synchronize", Napi::Function::New(env, guarded<synchronize>));
  exports.Set("finished", Napi::Function::New(env, guarded<finished>));
  export_tensors(env, exports);
  export_order(env, exports);
  export_ops(env, exports);
  export_programs(env, exports);
  return exports;
}

}  // namespace
}  // namespace moe::binding

// The macro wants a plain name.
static Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  return moe::binding::initialize(env, exports);
}
NODE_API_MODULE(moe_kernels, Initialize)
