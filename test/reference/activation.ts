// The activations and their derivatives, from their definitions.

import type { Activation } from '../../src/activation.ts';
import { erfc } from './erf.ts';
import type { Precision } from './precision.ts';

/** The numbers that `swiglu_clamped` (all three) and `swiglu` (the limit alone) can take. */
export interface ActivationNumbers {
  activationLimit?: number;
  activationAlpha?: number;
  activationUpShift?: number;
}

/** A gate's factor, or the whole of an ungated activation. */
interface Curve {
  value(x: number): number;
  slope(x: number): number;
}

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

const identity: Curve = { value: x => x, slope: () => 1 };
const relu: Curve = { value: x => Math.max(x, 0), slope: x => (x > 0 ? 1 : 0) };
const relu2: Curve = { value: x => Math.max(x, 0) ** 2, slope: x => 2 * Math.max(x, 0) };

/** x·σ(alpha·x) */
const swish = (alpha: number): Curve => ({
  value: x => x * sigmoid(alpha * x),
  slope: x => sigmoid(alpha * x) * (1 + alpha * x * sigmoid(-alpha * x)),
});
const silu = swish(1);

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

/** No larger than the limit, and constant from there on. */
const below = (limit: number): Curve => ({
  value: x => Math.min(x, limit),
  slope: x => (x > limit ? 0 : 1),
});
/** Within ±limit, and constant outside. */
const within = (limit: number): Curve => ({
  value: x => Math.min(Math.max(x, -limit), limit),
  slope: x => (Math.abs(x) > limit ? 0 : 1),
});
const shifted = (curve: Curve, by: number): Curve => ({ ...curve, value: x => curve.value(x) + by });
const chained = (outer: Curve, inner: Curve): Curve => ({
  value: x => outer.value(inner.value(x)),
  slope: x => outer.slope(inner.value(x)) * inner.slope(x),
});

/** gate(g) · up(u), or gate(x) where there is no up half. */
interface Form {
  gate: Curve;
  up?: Curve;
}

const FORMS: Readonly<Record<Activation, (numbers: ActivationNumbers) => Form>> = {
  identity: () => ({ gate: identity }),
  relu: () => ({ gate: relu }),
  gelu: () => ({ gate: gelu }),
  gelu_tanh: () => ({ gate: geluTanh }),
  silu: () => ({ gate: silu }),
  relu2: () => ({ gate: relu2 }),
  swiglu: ({ activationLimit: limit = Infinity }) => ({
    gate: chained(silu, below(limit)),
    up: within(limit),
  }),
  swiglu_clamped: ({
    activationLimit: limit = 7,
    activationAlpha: alpha = 1.702,
    activationUpShift: shift = 1,
  }) => ({ gate: chained(swish(alpha), below(limit)), up: shifted(within(limit), shift) }),
  geglu: () => ({ gate: gelu, up: identity }),
  geglu_tanh: () => ({ gate: geluTanh, up: identity }),
  reglu: () => ({ gate: relu, up: identity }),
};

/** How many pre-activation columns one activated column takes: gate and up, or one. */
export function columnsPerOutput(activation: Activation): 1 | 2 {
  return FORMS[activation]({}).up ? 2 : 1;
}

/** Activated rows [R, I] of pre-activation rows [R, 2I] (gate columns first) or [R, I]. */
export function referenceActivation(
  activation: Activation,
  pre: Float64Array,
  width: number,
  { round }: Precision,
  numbers: ActivationNumbers = {},
): Float64Array {
  const { gate, up } = FORMS[activation](numbers);
  if (!up) return Float64Array.from(pre, x => round(gate.value(x)));
  const out = new Float64Array(pre.length / 2);
  for (let i = 0; i < out.length; i++) {
    const at = i + Math.floor(i / width) * width;
    out[i] = round(gate.value(pre[at]!) * up.value(pre[at + width]!));
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
  numbers: ActivationNumbers = {},
): Float64Array {
  const { gate, up } = FORMS[activation](numbers);
  if (!up) return Float64Array.from(pre, (x, i) => round(gate.slope(x) * dActivated[i]!));
  const dPre = new Float64Array(pre.length);
  for (let i = 0; i < dActivated.length; i++) {
    const at = i + Math.floor(i / width) * width;
    const [g, u] = [pre[at]!, pre[at + width]!];
    dPre[at] = round(gate.slope(g) * up.value(u) * dActivated[i]!);
    dPre[at + width] = round(gate.value(g) * up.slope(u) * dActivated[i]!);
  }
  return dPre;
}
