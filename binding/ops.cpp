#include "binding/ops.h"

#include <cctype>
#include <string>

#include "binding/environment.h"
#include "binding/tensors.h"

namespace moe::binding {
namespace {

// Reads one op's arguments by name; collects the memory that must live until it has run.
class Args {
 public:
  explicit Args(Napi::Object object) : object_(object) {}

  // Absent where the property is undefined.
  Tensor tensor(const char* name) {
    const Napi::Value value = object_.Get(name);
    if (value.IsUndefined()) return {};
    const TensorHandle& handle = handle_of(value);
    pins_.push_back(handle.storage);
    return handle.tensor;
  }
  double number(const char* name) const { return object_.Get(name).ToNumber().DoubleValue(); }
  int integer(const char* name) const { return object_.Get(name).ToNumber().Int32Value(); }
  bool flag(const char* name) const { return object_.Get(name).ToBoolean(); }
  template <class Enum>
  Enum choice(const char* name) const {
    return static_cast<Enum>(integer(name));
  }

  Pins take_pins() { return std::move(pins_); }

 private:
  Napi::Object object_;
  Pins pins_;
};

RouterConfig router_config(const Args& args) {
  return {.top_k = args.integer("topK"),
          .score = args.choice<Score>("score"),
          .softmax_over = args.choice<SoftmaxOver>("softmaxOver"),
          .jitter_eps = static_cast<float>(args.number("jitterEps")),
          .group_count = args.integer("groupCount"),
          .group_top = args.integer("groupTop"),
          .group_score = args.choice<GroupScore>("groupScore"),
          .group_mask_value = static_cast<float>(args.number("groupMaskValue")),
          .normalize = args.flag("normalize"),
          .normalize_eps = static_cast<float>(args.number("normalizeEps")),
          .normalize_min = static_cast<float>(args.number("normalizeMin")),
          .scale = static_cast<float>(args.number("scale")),
          .capacity = args.integer("capacity"),
          .identity_experts = args.integer("identityExperts")};
}

ActivationSpec activation(const Args& args) {
  return {.function = args.choice<Activation>("activation"),
          .limit = static_cast<float>(args.number("activationLimit")),
          .alpha = static_cast<float>(args.number("activationAlpha")),
          .up_shift = static_cast<float>(args.number("activationUpShift"))};
}

// A value for every parameter of experts, read by the parameter's name: gateUp, gateUpBias, gateUpLoraA, …
template <class T, class Read>
ExpertParameters<T> expert_parameters(Read read) {
  ExpertParameters<T> values;
  for (Projection projection : kProjections) {
    const std::string name = kProjectionNames[static_cast<size_t>(projection)];
    values[projection] = {.weight = read(name),
                          .bias = read(name + "Bias"),
                          .lora_a = read(name + "LoraA"),
                          .lora_b = read(name + "LoraB")};
  }
  return values;
}

Experts experts(Args& args) {
  return {.parameters =
              expert_parameters<Tensor>([&](const std::string& name) { return args.tensor(name.c_str()); }),
          .interleaved = args.flag("interleaved"),
          .transposed = args.flag("transposed"),
          .lora_scale = static_cast<float>(args.number("loraScale"))};
}

// prefix + Name
std::string prefixed(const char* prefix, std::string name) {
  name[0] = static_cast<char>(std::toupper(name[0]));
  return prefix + name;
}

ExpertTensors expert_gradients(Args& args) {
  return expert_parameters<Tensor>(
      [&](const std::string& name) { return args.tensor(prefixed("d", name).c_str()); });
}

ExpertFlags expert_flags(const Args& args) {
  return expert_parameters<bool>(
      [&](const std::string& name) { return args.flag(prefixed("accumulateD", name).c_str()); });
}

Op fill(Args& args) {
  return Fill{.out = args.tensor("out"), .value = static_cast<float>(args.number("value"))};
}

Op cast(Args& args) {
  return Cast{.source = args.tensor("source"), .out = args.tensor("out")};
}

Op route(Args& args) {
  return Route{.router = router_config(args),
               .x = args.tensor("x"),
               .weight = args.tensor("weight"),
               .bias = args.tensor("bias"),
               .logits = args.tensor("logits"),
               .indices = args.tensor("indices"),
               .weights = args.tensor("weights"),
               .selection_bias = args.tensor("selectionBias"),
               .expert_scale = args.tensor("expertScale"),
               .counts = args.tensor("counts"),
               .dropped = args.tensor("dropped")};
}

Op route_backward(Args& args) {
  return RouteBackward{.router = router_config(args),
                       .logits = args.tensor("logits"),
                       .indices = args.tensor("indices"),
                       .dropped = args.tensor("dropped"),
                       .expert_scale = args.tensor("expertScale"),
                       .d_weights = args.tensor("dWeights"),
                       .extra_d_logits = args.tensor("extraDLogits"),
                       .x = args.tensor("x"),
                       .weight = args.tensor("weight"),
                       .d_logits = args.tensor("dLogits"),
                       .dx = args.tensor("dx"),
                       .d_weight = args.tensor("dWeight"),
                       .d_bias = args.tensor("dBias"),
                       .d_expert_scale = args.tensor("dExpertScale"),
                       .accumulate_dx = args.flag("accumulateDx"),
                       .accumulate_d_weight = args.flag("accumulateDWeight"),
                       .accumulate_d_bias = args.flag("accumulateDBias"),
                       .accumulate_d_expert_scale = args.flag("accumulateDExpertScale")};
}

Op router_loss(Args& args) {
  return RouterLoss{.score = args.choice<Score>("score"),
                    .logits = args.tensor("logits"),
                    .indices = args.tensor("indices"),
                    .mask = args.tensor("mask"),
                    .sequence_length = args.integer("sequenceLength"),
                    .load_balance = static_cast<float>(args.number("loadBalance")),
                    .z = static_cast<float>(args.number("z")),
                    .losses = args.tensor("losses"),
                    .d_logits = args.tensor("dLogits")};
}

Op update_selection_bias(Args& args) {
  return UpdateSelectionBias{.selection_bias = args.tensor("selectionBias"),
                             .counts = args.tensor("counts"),
                             .rate = static_cast<float>(args.number("rate"))};
}

Op dispatch(Args& args) {
  return Dispatch{.indices = args.tensor("indices"),
                  .dropped = args.tensor("dropped"),
                  .identity_experts = args.integer("identityExperts"),

                  .offsets = args.tensor("offsets"),
                  .row_slot = args.tensor("rowSlot"),
                  .slot_row = args.tensor("slotRow")};
}

Op gather(Args& args) {
  return Gather{.x = args.tensor("x"),
                .row_slot = args.tensor("rowSlot"),
                .top_k = args.integer("topK"),
                .rows = args.tensor("rows")};
}

Op combine(Args& args) {
  return Combine{.rows = args.tensor("rows"),
                 .slot_row = args.tensor("slotRow"),
                 .weights = args.tensor("weights"),
                 .y = args.tensor("y")};
}

Op combine_backward(Args& args) {
  return CombineBackward{.dy = args.tensor("dy"),
                         .row_slot = args.tensor("rowSlot"),
                         .rows = args.tensor("rows"),
                         .weights = args.tensor("weights"),
                         .top_k = args.integer("topK"),
                         .d_rows = args.tensor("dRows"),
                         .d_weights = args.tensor("dWeights")};
}

Op grouped_matmul(Args& args) {
  return GroupedMatmul{.activation = activation(args),
                       .rows = args.tensor("rows"),
                       .weight = args.tensor("weight"),
                       .offsets = args.tensor("offsets"),
                       .bias = args.tensor("bias"),
                       .interleaved = args.flag("interleaved"),
                       .transposed = args.flag("transposed"),
                       .out = args.tensor("out"),
                       .pre_activation = args.tensor("preActivation")};
}

Op grouped_matmul_dgrad(Args& args) {
  return GroupedMatmulDgrad{.activation = activation(args),
                            .d_out = args.tensor("dOut"),
                            .weight = args.tensor("weight"),
                            .offsets = args.tensor("offsets"),
                            .pre_activation = args.tensor("preActivation"),
                            .interleaved = args.flag("interleaved"),
                            .transposed = args.flag("transposed"),
                            .d_rows = args.tensor("dRows")};
}

Op grouped_matmul_wgrad(Args& args) {
  return GroupedMatmulWgrad{.d_out = args.tensor("dOut"),
                            .rows = args.tensor("rows"),
                            .offsets = args.tensor("offsets"),
                            .d_weight = args.tensor("dWeight"),
                            .d_bias = args.tensor("dBias"),
                            .transposed = args.flag("transposed"),
                            .accumulate_d_weight = args.flag("accumulateDWeight"),
                            .accumulate_d_bias = args.flag("accumulateDBias")};
}

Op experts_forward(Args& args) {
  return ExpertsForward{.activation = activation(args),
                        .x = args.tensor("x"),
                        .offsets = args.tensor("offsets"),
                        .row_slot = args.tensor("rowSlot"),
                        .slot_row = args.tensor("slotRow"),
                        .weights = args.tensor("weights"),
                        .experts = experts(args),
                        .weight_on_input = args.flag("weightOnInput"),
                        .y = args.tensor("y"),
                        .accumulate_y = args.flag("accumulateY"),
                        .pre_activation = args.tensor("preActivation")};
}

Op experts_backward(Args& args) {
  return ExpertsBackward{.activation = activation(args),
                         .dy = args.tensor("dy"),
                         .x = args.tensor("x"),
                         .offsets = args.tensor("offsets"),
                         .row_slot = args.tensor("rowSlot"),
                         .slot_row = args.tensor("slotRow"),
                         .weights = args.tensor("weights"),
                         .experts = experts(args),
                         .weight_on_input = args.flag("weightOnInput"),
                         .pre_activation = args.tensor("preActivation"),
                         .dx = args.tensor("dx"),
                         .accumulate_dx = args.flag("accumulateDx"),

                         .d_weights = args.tensor("dWeights"),
                         .gradients = expert_gradients(args),
                         .accumulate = expert_flags(args)};
}

template <Op (*read)(Args&)>
Napi::Value enqueue(const Napi::CallbackInfo& info) {
  Args args(info[0].As<Napi::Object>());
  const Op op = read(args);
  Environment::of(info.Env()).queue().submit(op, args.take_pins());
  return info.Env().Undefined();
}

}  // namespace

void export_ops(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, Napi::Value (*function)(const Napi::CallbackInfo&)) {
    exports.Set(name, Napi::Function::New(env, function, name));
  };
  add("fill", guarded<enqueue<fill>>);
  add("cast", guarded<enqueue<cast>>);
  add("route", guarded<enqueue<route>>);
  add("routeBackward", guarded<enqueue<route_backward>>);
  add("routerLoss", guarded<enqueue<router_loss>>);
  add("updateSelectionBias", guarded<enqueue<update_selection_bias>>);
  add("dispatch", guarded<enqueue<dispatch>>);
  add("gather", guarded<enqueue<gather>>);
  add("combine", guarded<enqueue<combine>>);
  add("combineBackward", guarded<enqueue<combine_backward>>);
  add("groupedMatmul", guarded<enqueue<grouped_matmul>>);
  add("groupedMatmulDgrad", guarded<enqueue<grouped_matmul_dgrad>>);
  add("groupedMatmulWgrad", guarded<enqueue<grouped_matmul_wgrad>>);
  add("expertsForward", guarded<enqueue<experts_forward>>);
  add("expertsBackward", guarded<enqueue<experts_backward>>);
}

}  // namespace moe::binding
