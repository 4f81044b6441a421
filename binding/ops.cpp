#include "binding/ops.h"

#include <cctype>
#include <string>

#include "binding/environment.h"
#include "binding/program.h"

namespace moe::binding {
namespace {

// Reads an op's arguments from a JavaScript object; collects the memory that must live until it has run, and
// the values, where the call is being recorded.
class NamedArgs final : public Args {
 public:
  NamedArgs(Napi::Object object, Recording* recording) : object_(object), recording_(recording) {}

  Tensor tensor(const char* name) override {
    const Napi::Value value = object_.Get(name);
    if (value.IsUndefined()) {
      if (recording_ != nullptr) recorded_.tensors.emplace_back();
      return {};
    }
    const TensorHandle& handle = handle_of(value);
    if (recording_ != nullptr) recorded_.tensors.push_back(recording_->placed(handle));
    pins_.push_back(handle.storage);
    device_ = handle.device;
    return handle.tensor;
  }

  double number(const char* name) override {
    const double value = object_.Get(name).ToNumber().DoubleValue();
    if (recording_ != nullptr) recorded_.numbers.push_back(value);
    return value;
  }

  Pins take_pins() { return std::move(pins_); }
  // That of the tensors: the caller has checked that it is one.
  int device() const { return device_; }

  void record(ReadOp read) {
    recorded_.read = read;
    if (recording_ != nullptr) recording_->add(std::move(recorded_), device_);
  }

 private:
  Napi::Object object_;
  Recording* const recording_;
  RecordedOp recorded_;
  Pins pins_;
  int device_ = 0;
};

RouterConfig router_config(Args& args) {
  return {.top_k = args.integer("topK"),
          .choice = args.choice<Choice>("choice"),
          .score = args.choice<Score>("score"),
          .softmax_over = args.choice<SoftmaxOver>("softmaxOver"),
          .jitter_eps = args.real("jitterEps"),
          .group_count = args.integer("groupCount"),
          .group_top = args.integer("groupTop"),
          .group_score = args.choice<GroupScore>("groupScore"),
          .group_mask_value = args.real("groupMaskValue"),
          .top_p = args.real("topP"),
          .normalize = args.flag("normalize"),
          .normalize_eps = args.real("normalizeEps"),
          .normalize_min = args.real("normalizeMin"),
          .scale = args.real("scale"),
          .identity_experts = args.integer("identityExperts"),
          .sequence_length = args.integer("sequenceLength"),
          .by_sequence = args.flag("bySequence"),
          .noise = {.kind = args.choice<NoiseKind>("noiseKind"),
                    .strength = args.real("noiseStrength"),
                    .seed = static_cast<uint64_t>(args.number("noiseSeed")),
                    .step = static_cast<uint64_t>(args.number("noiseStep"))},
          .capacity = {.rows_per_expert = args.integer("capacityRows"),
                       .by_sequence = args.flag("capacityBySequence"),
                       .policy = args.choice<DropPolicy>("dropPolicy"),
                       .residual = args.flag("residual")}};
}

RouterMatrices router_matrices(Args& args) {
  return {.weight = args.tensor("weight"),
          .bias = args.tensor("bias"),
          .noise_weight = args.tensor("noiseWeight"),
          .lora_a = args.tensor("loraA"),
          .lora_b = args.tensor("loraB")};
}

ActivationSpec activation(Args& args) {
  return {.function = args.choice<Activation>("activation"),
          .limit = args.real("activationLimit"),
          .alpha = args.real("activationAlpha"),
          .up_shift = args.real("activationUpShift")};
}

// The argument of every parameter of experts: gateUp, gateUpBias, gateUpLoraA, …; with a prefix dGateUp, …
ExpertParameters<std::string> argument_names(const std::string& prefix) {
  ExpertParameters<std::string> names;
  for (Projection projection : kProjections) {
    std::string name = kProjectionNames[static_cast<size_t>(projection)];
    if (!prefix.empty()) name[0] = static_cast<char>(std::toupper(name[0]));
    name.insert(0, prefix);
    names[projection] = {
        .weight = name, .bias = name + "Bias", .lora_a = name + "LoraA", .lora_b = name + "LoraB"};
  }
  return names;
}

template <class T, class Read>
ExpertParameters<T> expert_parameters(const ExpertParameters<std::string>& names, Read read) {
  ExpertParameters<T> values;
  for (Projection projection : kProjections) {
    const LinearParameters<std::string>& name = names[projection];
    values[projection] = {.weight = read(name.weight.c_str()),
                          .bias = read(name.bias.c_str()),
                          .lora_a = read(name.lora_a.c_str()),
                          .lora_b = read(name.lora_b.c_str())};
  }
  return values;
}

ExpertTensors expert_tensors(Args& args, const ExpertParameters<std::string>& names) {
  return expert_parameters<Tensor>(names, [&](const char* name) { return args.tensor(name); });
}

Experts experts(Args& args) {
  static const auto names = argument_names("");
  return {.parameters = expert_tensors(args, names),
          .interleaved = args.flag("interleaved"),
          .transposed = args.flag("transposed"),
          .lora_scale = args.real("loraScale")};
}

ExpertTensors expert_gradients(Args& args) {
  static const auto names = argument_names("d");
  return expert_tensors(args, names);
}

ExpertFlags expert_flags(Args& args) {
  static const auto names = argument_names("accumulateD");
  return expert_parameters<bool>(names, [&](const char* name) { return args.flag(name); });
}

Op fill(Args& args) {
  return Fill{.out = args.tensor("out"), .value = args.real("value")};
}

Op cast(Args& args) {
  return Cast{.source = args.tensor("source"), .out = args.tensor("out")};
}

Op route(Args& args) {
  return Route{.router = router_config(args),
               .x = args.tensor("x"),
               .parameters = router_matrices(args),
               .lora_scale = args.real("loraScale"),
               .given_logits = args.tensor("givenLogits"),
               .given_noise_logits = args.tensor("givenNoiseLogits"),
               .given_indices = args.tensor("givenIndices"),
               .mask = args.tensor("mask"),
               .selection_bias = args.tensor("selectionBias"),
               .expert_scale = args.tensor("expertScale"),
               .logits = args.tensor("logits"),
               .noise_logits = args.tensor("noiseLogits"),
               .indices = args.tensor("indices"),
               .weights = args.tensor("weights"),
               .counts = args.tensor("counts"),
               .dropped = args.tensor("dropped")};
}

Op route_backward(Args& args) {
  return RouteBackward{.router = router_config(args),
                       .logits = args.tensor("logits"),
                       .indices = args.tensor("indices"),
                       .noise_logits = args.tensor("noiseLogits"),
                       .dropped = args.tensor("dropped"),
                       .mask = args.tensor("mask"),
                       .expert_scale = args.tensor("expertScale"),
                       .d_weights = args.tensor("dWeights"),
                       .extra_d_logits = args.tensor("extraDLogits"),
                       .extra_d_noise_logits = args.tensor("extraDNoiseLogits"),
                       .x = args.tensor("x"),
                       .parameters = router_matrices(args),
                       .lora_scale = args.real("loraScale"),
                       .d_logits = args.tensor("dLogits"),
                       .d_noise_logits = args.tensor("dNoiseLogits"),
                       .dx = args.tensor("dx"),
                       .d_parameters = {.weight = args.tensor("dWeight"),
                                        .bias = args.tensor("dBias"),
                                        .noise_weight = args.tensor("dNoiseWeight"),
                                        .lora_a = args.tensor("dLoraA"),
                                        .lora_b = args.tensor("dLoraB")},
                       .d_expert_scale = args.tensor("dExpertScale"),
                       .accumulate_dx = args.flag("accumulateDx"),
                       .accumulate_d_expert_scale = args.flag("accumulateDExpertScale"),
                       .accumulate = {.weight = args.flag("accumulateDWeight"),
                                      .bias = args.flag("accumulateDBias"),
                                      .noise_weight = args.flag("accumulateDNoiseWeight"),
                                      .lora_a = args.flag("accumulateDLoraA"),
                                      .lora_b = args.flag("accumulateDLoraB")}};
}

Op router_loss(Args& args) {
  return RouterLoss{.router = router_config(args),
                    .logits = args.tensor("logits"),
                    .indices = args.tensor("indices"),
                    .weights = args.tensor("weights"),
                    .dropped = args.tensor("dropped"),
                    .expert_scale = args.tensor("expertScale"),
                    .noise_logits = args.tensor("noiseLogits"),
                    .mask = args.tensor("mask"),
                    .sequence_length = args.integer("balanceLength"),
                    .load_balance = args.real("loadBalance"),
                    .z = args.real("z"),
                    .importance = args.real("importance"),
                    .load = args.real("load"),
                    .losses = args.tensor("losses"),
                    .entropy = args.tensor("entropy"),
                    .d_logits = args.tensor("dLogits"),
                    .d_noise_logits = args.tensor("dNoiseLogits")};
}

Op update_selection_bias(Args& args) {
  return UpdateSelectionBias{.selection_bias = args.tensor("selectionBias"),
                             .counts = args.tensor("counts"),
                             .rate = args.real("rate")};
}

Op dispatch(Args& args) {
  return Dispatch{.indices = args.tensor("indices"),
                  .dropped = args.tensor("dropped"),
                  .identity_experts = args.integer("identityExperts"),
                  .rows_per_expert = args.integer("rowsPerExpert"),
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
                 .x = args.tensor("x"),
                 .y = args.tensor("y"),
                 .accumulate = args.flag("accumulate")};
}

Op combine_backward(Args& args) {
  return CombineBackward{.dy = args.tensor("dy"),
                         .row_slot = args.tensor("rowSlot"),
                         .slot_row = args.tensor("slotRow"),
                         .rows = args.tensor("rows"),
                         .weights = args.tensor("weights"),
                         .x = args.tensor("x"),
                         .d_rows = args.tensor("dRows"),
                         .d_weights = args.tensor("dWeights"),
                         .dx = args.tensor("dx")};
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

template <ReadOp read>
Napi::Value enqueue(const Napi::CallbackInfo& info) {
  Environment& environment = Environment::of(info.Env());
  NamedArgs args(info[0].As<Napi::Object>(), environment.recording().get());
  const Op op = read(args);
  environment.queue(args.device()).submit(op, args.take_pins());
  args.record(read);
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
