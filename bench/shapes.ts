// The layers that are measured: named after models, or given as dimensions; and what they cost.

import { type Activation, isGated } from '../src/activation.ts';
import { checkInteger } from '../src/check.ts';
import { describe } from '../src/dtype.ts';
import { badArgument } from '../src/errors.ts';
import { MODEL_LAYERS } from './model-layers.ts';

export interface LayerShape {
  readonly tokens: number;
  readonly hidden: number;
  readonly intermediate: number;
  readonly experts: number;
  readonly topK: number;
  readonly activation: Activation;
}

export const PASSES = ['forward', 'backward', 'both'] as const;
/** `both` is a forward pass that saves for the backward pass, and that. */
export type Pass = (typeof PASSES)[number];

const DEFAULT_ACTIVATION: Activation = 'swiglu';

function layerShape(
  [tokens, hidden, intermediate, experts, topK]: readonly [number, number, number, number, number],
  activation = DEFAULT_ACTIVATION,
): LayerShape {
  return { tokens, hidden, intermediate, experts, topK, activation };
}

/** Proportions of the models they are named after, at sizes that a processor runs in well under a second. */
export const SHAPES: Readonly<Record<string, LayerShape>> = {
  'mixtral-mini': layerShape([512, 1024, 3584, 8, 2]),
  'deepseek-mini': layerShape([512, 1024, 704, 64, 6]),
  'qwen3-mini': layerShape([512, 2048, 768, 128, 8]),
  'switch-mini': layerShape([2048, 768, 3072, 64, 1], 'relu'),
};

/**
 * A named shape, or one given as `T,H,I,E,K`.
 * @throws MoeError ERR_INVALID_ARGUMENT
 */
export function parseShape(name: string, text: string): LayerShape {
  const named = namedShape(text);
  if (named) return named;
  const parts = text.split(',');
  if (parts.length !== 5 || !parts.every(part => /^\d+$/.test(part))) {
    const expected = 'a name that moe-kernels bench --list has, or five integers T,H,I,E,K';
    throw badArgument('ERR_INVALID_ARGUMENT', name, expected, describe(text));
  }
  const sizes = ['T', 'H', 'I', 'E', 'K'].map((letter, i) =>
    checkInteger(`${name} ${letter}`, Number(parts[i]), 1),
  );
  const [tokens, hidden, intermediate, experts, topK] = sizes as [number, number, number, number, number];
  checkInteger(`${name} K`, topK, 1, experts);
  return layerShape([tokens, hidden, intermediate, experts, topK]);
}

/** What a shape is called: its own name, or its sizes. */
export function shapeName(text: string, { tokens, hidden, intermediate, experts, topK }: LayerShape): string {
  return isNamed(text) ? text : [tokens, hidden, intermediate, experts, topK].join();
}

/** The activation of the shape of that name, unless it is given another. */
export function ownActivation(name: string): Activation {
  return namedShape(name)?.activation ?? DEFAULT_ACTIVATION;
}

export function isNamed(name: string): boolean {
  return namedShape(name) !== undefined;
}

function namedShape(name: string): LayerShape | undefined {
  return Object.hasOwn(SHAPES, name) ? SHAPES[name] : MODEL_LAYERS.get(name)?.shape;
}

/** Elements of all the experts' weights. */
export function weightCount({ hidden, intermediate, experts, activation }: LayerShape): number {
  return experts * hidden * intermediate * (isGated(activation) ? 3 : 2);
}

/** Rows that reach experts where each token has K of them. */
export function slotCount({ tokens, topK }: LayerShape): number {
  return tokens * topK;
}

/** Floating-point operations of the experts' matmuls: 6·R·H·I forward where gated, 4·R·H·I where not, twice that backward. */
export function flops(shape: LayerShape, pass: Pass, rows = slotCount(shape)): number {
  const { hidden, intermediate, activation } = shape;
  const forward = (isGated(activation) ? 6 : 4) * rows * hidden * intermediate;
  return { forward, backward: 2 * forward, both: 3 * forward }[pass];
}

/**
 * Bytes that cannot be avoided, each read or written once: the weights of the experts that any token reaches, x and y; backward
 * those weights, the gradients of all experts' weights, x, dy, dx and the saved pre-activations.
 */
export function bytes(
  shape: LayerShape,
  pass: Pass,
  elementBytes: number,
  touchedExperts: number,
  rows = slotCount(shape),
): number {
  const { tokens, hidden, intermediate, experts, activation } = shape;
  const weights = weightCount(shape);
  const touched = (weights / experts) * touchedExperts;
  const preActivations = rows * intermediate * (isGated(activation) ? 2 : 1);
  const forward = touched + 2 * tokens * hidden;
  const backward = touched + weights + 3 * tokens * hidden + preActivations;
  return elementBytes * { forward, backward, both: forward + preActivations + backward }[pass];
}
