// The layer in ggml, with the ops and in the order that llama.cpp's build_moe_ffn chains them: routing and
// activations in float32, the experts' matrices in the dtype asked for.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <napi.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

namespace {

template <auto release>
struct Release {
  template <class T>
  void operator()(T* object) const {
    release(object);
  }
};
template <class T, auto release>
using Held = std::unique_ptr<T, Release<release>>;

using Context = Held<ggml_context, ggml_free>;
using Buffer = Held<ggml_backend_buffer, ggml_backend_buffer_free>;

// Tensors are described here; their data lies elsewhere.
Context description_of(size_t tensors) {
  return Context(ggml_init({.mem_size = tensors * ggml_tensor_overhead() + ggml_graph_overhead(),
                            .mem_buffer = nullptr,
                            .no_alloc = true}));
}

ggml_type type_named(const std::string& dtype) {
  if (dtype == "float32") return GGML_TYPE_F32;
  if (dtype == "bfloat16") return GGML_TYPE_BF16;
  if (dtype == "float16") return GGML_TYPE_F16;
  throw std::invalid_argument("no " + dtype);
}

void fill(ggml_tensor* tensor, const Napi::Float32Array& values) {
  const auto count = static_cast<int64_t>(values.ElementLength());
  if (count != ggml_nelements(tensor)) throw std::invalid_argument("a tensor has another size");
  switch (tensor->type) {
    case GGML_TYPE_BF16:
      ggml_fp32_to_bf16_row(values.Data(), static_cast<ggml_bf16_t*>(tensor->data), count);
      break;
    case GGML_TYPE_F16:
      ggml_fp32_to_fp16_row(values.Data(), static_cast<ggml_fp16_t*>(tensor->data), count);
      break;
    default:
      std::memcpy(tensor->data, values.Data(), values.ByteLength());
  }
}

ggml_tensor* activate(ggml_context* in, ggml_tensor* rows, const std::string& activation) {
  if (activation == "swiglu") return ggml_swiglu(in, rows);
  if (activation == "silu") return ggml_silu(in, rows);
  if (activation == "relu") return ggml_relu(in, rows);
  if (activation == "identity") return rows;
  throw std::invalid_argument("no " + activation);
}

// new Layer({ tokens, hidden, experts, topK, activation, dtype, threads }, { x, router, up, down })
class Layer : public Napi::ObjectWrap<Layer> {
 public:
  explicit Layer(const Napi::CallbackInfo& info) : ObjectWrap(info), backend_(ggml_backend_cpu_init()) {
    const auto options = info[0].As<Napi::Object>(), values = info[1].As<Napi::Object>();
    const auto number = [&](const char* name) { return options.Get(name).ToNumber().Int64Value(); };
    const auto text = [&](const char* name) { return options.Get(name).ToString().Utf8Value(); };
    const auto floats = [&](const char* name) { return values.Get(name).As<Napi::Float32Array>(); };
    const int64_t tokens = number("tokens"), hidden = number("hidden"), experts = number("experts");
    const auto rows_of = [&](const char* name, int64_t columns) {
      return static_cast<int64_t>(floats(name).ElementLength()) / columns / experts;
    };
    const int64_t up_rows = rows_of("up", hidden), intermediate = rows_of("down", hidden);
    const ggml_type type = type_named(text("dtype"));

    ggml_context* in = weights_.get();
    ggml_tensor* x = ggml_new_tensor_2d(in, GGML_TYPE_F32, hidden, tokens);
    ggml_tensor* router = ggml_new_tensor_2d(in, GGML_TYPE_F32, hidden, experts);
    ggml_tensor* up = ggml_new_tensor_3d(in, type, hidden, up_rows, experts);
    ggml_tensor* down = ggml_new_tensor_3d(in, type, intermediate, hidden, experts);
    data_.reset(ggml_backend_alloc_ctx_tensors(in, backend_.get()));
    fill(x, floats("x"));
    fill(router, floats("router"));
    fill(up, floats("up"));
    fill(down, floats("down"));

    build({.x = x, .router = router, .up = up, .down = down}, number("topK"), text("activation"));
    ggml_backend_cpu_set_n_threads(backend_.get(), static_cast<int>(number("threads")));
  }

  static Napi::Function definition(Napi::Env env) {
    return DefineClass(env, "Layer", {InstanceMethod<&Layer::run>("run"), InstanceMethod<&Layer::y>("y")});
  }

 private:
  struct Parameters {
    ggml_tensor *x, *router, *up, *down;
  };

  void build(const Parameters& layer, int64_t top_k, const std::string& activation) {
    ggml_context* in = ops_.get();
    const int64_t hidden = layer.x->ne[0], tokens = layer.x->ne[1], experts = layer.router->ne[1];
    ggml_tensor* probabilities = ggml_soft_max(in, ggml_mul_mat(in, layer.router, layer.x));
    ggml_tensor* chosen = ggml_argsort_top_k(in, probabilities, static_cast<int>(top_k));
    ggml_tensor* weights = ggml_get_rows(in, ggml_reshape_3d(in, probabilities, 1, experts, tokens), chosen);
    if (top_k > 1) {
      ggml_tensor* flat = ggml_reshape_2d(in, weights, top_k, tokens);
      weights = ggml_reshape_3d(in, ggml_div(in, flat, ggml_sum_rows(in, flat)), 1, top_k, tokens);
    }
    ggml_tensor* rows =
        ggml_mul_mat_id(in, layer.up, ggml_reshape_3d(in, layer.x, hidden, 1, tokens), chosen);
    rows = ggml_mul_mat_id(in, layer.down, activate(in, rows, activation), chosen);
    rows = ggml_mul(in, rows, weights);
    for (int64_t i = 0; i < top_k; ++i) {
      ggml_tensor* of_choice =
          ggml_view_2d(in, rows, hidden, tokens, rows->nb[2], static_cast<size_t>(i) * rows->nb[1]);
      y_ = i == 0 ? of_choice : ggml_add(in, y_, of_choice);
    }
    if (top_k == 1) y_ = ggml_cont(in, y_);
    ggml_set_output(y_);
    graph_ = ggml_new_graph(in);
    ggml_build_forward_expand(graph_, y_);
    if (!ggml_gallocr_alloc_graph(allocator_.get(), graph_)) throw std::bad_alloc();
  }

  void run(const Napi::CallbackInfo& info) {
    if (ggml_backend_graph_compute(backend_.get(), graph_) != GGML_STATUS_SUCCESS)
      throw Napi::Error::New(info.Env(), "the graph was not computed");
  }

  Napi::Value y(const Napi::CallbackInfo& info) {
    auto values = Napi::Float32Array::New(info.Env(), static_cast<size_t>(ggml_nelements(y_)));
    std::memcpy(values.Data(), y_->data, values.ByteLength());
    return values;
  }

  const Held<ggml_backend, ggml_backend_free> backend_;
  const Context weights_ = description_of(4), ops_ = description_of(256);
  Buffer data_;
  const Held<ggml_gallocr, ggml_gallocr_free> allocator_{ggml_gallocr_new(ggml_backend_cpu_buffer_type())};
  ggml_cgraph* graph_ = nullptr;
  ggml_tensor* y_ = nullptr;
};

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("Layer", Layer::definition(env));
  exports.Set("version", std::string(ggml_version()));
  return exports;
}

}  // namespace

NODE_API_MODULE(ggml_layer, init)
