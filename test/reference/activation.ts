// The activations and their derivatives, from their definitions.

import type { Activation } from '../../src/activation.ts';
import { erfc } from './erf.ts';
import type { Precision } from './precision.ts';

interface Curve {
  value(x: number): number;
  slope(x: number): number;
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

const identity: Curve = { value: x => x, slope: () => 1 };
const relu: Curve = { value: x => Math.max(x, 0), slope: x => (x > 0 ? 1 : 0) };
const relu2: Curve = { value: x => Math.max(x, 0) ** 2, slope: x => 2 * Math.max(x, 0) };
const silu: Curve = {
  value: x => x * sigmoid(x),
  slope: x => sigmoid(x) * (1 + x * sigmoid(-x)),
};

/** Φ(x), the normal distribution function. */
const normal = (x: number) => 0.5 * erfc(-x / Math.SQRT2);
const gelu: Curve = {
  value: x => x * normal(x),
  slope: x => normal(x) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI),
};

const TANH_SCALE = Math.sqrt(2 / Math.PI);
const TANH_CUBIC = 0.044715;
const geluTanh: Curve = {
  value: x => 0.5 * x * (1 + Math.tanh(TANH_SCALE * (x + TANH_CUBIC * x ** 3))),
  slope: x => {
    const t = Math.tanh(TANH_SCALE * (x + TANH_CUBIC * x ** 3));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * TANH_SCALE * (1 + 3 * TANH_CUBIC * x * x);
  },
};

/** For a gated activation the curve is the gate's; the up half multiplies it. */
const ACTIVATION_CURVES: Readonly<Record<Activation, { curve: Curve; gated: boolean }>> = {
  identity: { curve: identity, gated: false },
  relu: { curve: relu, gated: false },
  gelu: { curve: gelu, gated: false },
  gelu_tanh: { curve: geluTanh, gated: false },
  silu: { curve: silu, gated: false },
  relu2: { curve: relu2, gated: false },
  swiglu: { curve: silu, gated: true },
  geglu: { curve: gelu, gated: true },
  geglu_tanh: { curve: geluTanh, gated: true },
  reglu: { curve: relu, gated: true },
};

/** How many pre-activation columns one activated column takes: gate and up, or one. */
export function columnsPerOutput(activation: Activation): 1 | 2 {
  return ACTIVATION_CURVES[activation].gated ? 2 : 1;
}

/** Activated rows [R, I] of pre-activation rows [R, 2I] (gate columns first) or [R, I]. */
export function referenceActivation(
  activation: Activation,
  pre: Float64Array,
  width: number,
  { round }: Precision,
): Float64Array {
  const { curve, gated } = ACTIVATION_CURVES[activation];
  if (!gated) return Float64Array.from(pre, x => round(curve.value(x)));
  const out = new Float64Array(pre.length / 2);
  for (let i = 0; i < out.length; i++) {
    const gate = i + Math.floor(i / width) * width;
    out[i] = round(curve.value(pre[gate]!) * pre[gate + width]!);
  }
  return out;
}

/** The gradient of the pre-activation rows, of the gradient [R, I] of the activated ones. */
export function referenceActivationBackward(
  activation: Activation,
  pre: Float64Array,
  width: number,
  dActivated: Float64Array,
  { round }: Precision,
): Float64Array {
  const { curve, gated } = ACTIVATION_CURVES[activation];
  if (!gated) return Float64Array.from(pre, (x, i) => round(curve.slope(x) * dActivated[i]!));
  const dPre = new Float64Array(pre.length);
  for (let i = 0; i < dActivated.length; i++) {
    const gate = i + Math.floor(i / width) * width;
    dPre[gate] = round(curve.slope(pre[gate]!) * pre[gate + width]! * dActivated[i]!);
    dPre[gate + width] = round(curve.value(pre[gate]!) * dActivated[i]!);
  }
  return dPre;
}
