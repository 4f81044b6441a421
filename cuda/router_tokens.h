// The router's way back for every token, which its losses go too.
#pragma once

#include "cuda/context.h"
#include "ops/router.h"

namespace moe::cuda {

// d_logits = extra + the gradient of the weights carried to the logits that were scored.
struct LogitGradients {
  RouterConfig router;
  Tensor logits, indices;
  Tensor dropped;         // optional
  Tensor mask;            // optional: nothing but `extra` comes of padding
  Tensor expert_scale;    // optional
  Tensor d_weights;       // float32 [T, K], optional
  Tensor extra;           // float32 [T, E'], optional; may be d_logits
  Tensor d_logits;        // float32 [T, E'], out
  Tensor d_expert_scale;  // float32 [T, K], out, optional: of each slot
};
void gradient_of_logits(const LogitGradients& gradients, const Context& context);

enum class Direction : uint8_t { forward, backward };

// Rows of a sequence become their mean over the tokens that are not padding; backward, each of these gets the
// mean of the gradients of all. Nothing where the router works by token.
void average_sequences(const RouterConfig& router, const Tensor& mask, const Tensor& rows,
                       Direction direction, const Context& context);

}  // namespace moe::cuda
