// The README's example: a Mixture-of-Experts layer forward, and forward and backward.
import { MoELayer, tensor } from '../src/index.ts';

const [T, H] = [64, 256];
const config = { hidden: H, intermediate: 512, experts: 8, topK: 2, router: { normalize: true } };
const layer = new MoELayer(config, { seed: 1 });
const x = tensor(
  Float32Array.from({ length: T * H }, (_, i) => Math.sin(i)),
  [T, H],
);

// Inference: returns at once, a native thread does the work.
const y = layer.forward(x);
console.log(y.toString(), (await y.data()).slice(0, 3));

// Training: what forward saved goes to backward, with the gradient of y.
const { y: out, routing, saved } = layer.forwardTrain(x);
const { dx, gradients } = layer.backward(saved, out); // ∂(½‖y‖²)/∂y = y
console.log('rows per expert', await routing.counts.data());
console.log(dx.toString(), Object.keys(gradients));

// Native memory goes when you say so, or with the garbage collector.
for (const t of [y, out, dx, ...Object.values(gradients), saved, layer, x]) t.dispose();
