// The activations between the up and the down projection, by the names models publish.

import { checkFinite, checkOneOf } from './check.ts';
import { badArgument } from './errors.ts';
import { enumIndex } from './native.ts';

/**
 * Gated (two halves, gate g and up u):
 * `swiglu` silu(g)·u (Shazeer 2020), `geglu` gelu(g)·u, `geglu_tanh` gelu_tanh(g)·u (Grok-1), `reglu` relu(g)·u,
 * `swiglu_clamped` g·σ(alpha·g)·(u + upShift) of g = min(g, limit), u = clamp(u, ±limit) (GPT-OSS).
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
  'swiglu_clamped',
] as const;

export type Activation = (typeof ACTIVATIONS)[number];

/** An activation and its parameters. */
export interface ActivationOptions {
  activation?: Activation;
  /** With `swiglu` (default: none) and `swiglu_clamped` (default 7): bounds of gate and up before the activation. */
  activationLimit?: number;
  /** With `swiglu_clamped`, default 1.702. */
  activationAlpha?: number;
  /** With `swiglu_clamped`, default 1. */
  activationUpShift?: number;
}

export const ACTIVATION_KEYS = [
  'activation',
  'activationLimit',
  'activationAlpha',
  'activationUpShift',
] as const satisfies readonly (keyof ActivationOptions)[];

/** {@link ActivationOptions} with the defaults filled in; a limit of 0 means none. */
export interface ResolvedActivation {
  readonly activation: Activation;
  readonly limit: number;
  readonly alpha: number;
  readonly upShift: number;
}

/** Whether the activation takes a gate half and an up half. */
export function isGated(activation: Activation): boolean {
  return activation.includes('glu');
}

/**
 * Checks the options against each other and fills in the defaults.
 * @throws MoeError ERR_INVALID_ARGUMENT
 */
export function resolveActivation(
  prefix: string,
  options: ActivationOptions,
  standard: Activation,
): ResolvedActivation {
  const activation = checkOneOf(`${prefix}activation`, options.activation ?? standard, ACTIVATIONS);
  const clamped = activation === 'swiglu_clamped';
  const allowed = (key: (typeof ACTIVATION_KEYS)[number], holds: boolean, beside: string) => {
    if (options[key] === undefined || holds) return;
    throw badArgument(
      'ERR_INVALID_ARGUMENT',
      `${prefix}${key}`,
      `activation ${beside} beside it`,
      activation,
    );
  };
  allowed('activationLimit', clamped || activation === 'swiglu', 'swiglu or swiglu_clamped');
  allowed('activationAlpha', clamped, 'swiglu_clamped');
  allowed('activationUpShift', clamped, 'swiglu_clamped');
  const limit = options.activationLimit ?? (clamped ? 7 : undefined);
  if (limit !== undefined && checkFinite(`${prefix}activationLimit`, limit) <= 0) {
    throw badArgument('ERR_INVALID_ARGUMENT', `${prefix}activationLimit`, 'a number above 0', String(limit));
  }
  return {
    activation,
    limit: limit ?? 0,
    alpha: checkFinite(`${prefix}activationAlpha`, options.activationAlpha ?? (clamped ? 1.702 : 1)),
    upShift: checkFinite(`${prefix}activationUpShift`, options.activationUpShift ?? (clamped ? 1 : 0)),
  };
}

/** The activation as the addon reads it. */
export function nativeActivation(resolved: ResolvedActivation): Record<string, number> {
  return {
    activation: enumIndex('activation', resolved.activation),
    activationLimit: resolved.limit,
    activationAlpha: resolved.alpha,
    activationUpShift: resolved.upShift,
  };
}
