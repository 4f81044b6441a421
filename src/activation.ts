// The activations between the up and the down projection, by the names models publish.

import { checkOneOf } from './check.ts';

/**
 * Gated (two halves, gate g and up u):
 * `swiglu` silu(g)·u (Shazeer 2020), `geglu` gelu(g)·u, `geglu_tanh` gelu_tanh(g)·u (Grok-1), `reglu` relu(g)·u.
 * Ungated: `relu` (Switch), `gelu` x·Φ(x), `gelu_tanh` its tanh approximation (Hendrycks & Gimpel 2016), `silu` x·σ(x),
 * `relu2` relu(x)² (So et al. 2021, Nemotron), `identity`.
 */
export const ACTIVATIONS = [
  'identity',
  'relu',
  'gelu',
  'gelu_tanh',
  'silu',
  'relu2',
  'swiglu',
  'geglu',
  'geglu_tanh',
  'reglu',
] as const;

export type Activation = (typeof ACTIVATIONS)[number];

/** Whether the activation takes a gate half and an up half. */
export function isGated(activation: Activation): boolean {
  return activation === 'swiglu' || activation === 'reglu' || activation.startsWith('geglu');
}

export function checkActivation(name: string, value: unknown): Activation {
  return checkOneOf(name, value, ACTIVATIONS);
}
