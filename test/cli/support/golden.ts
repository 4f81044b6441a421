// Small golden cases whose numbers come from the float64 reference.

import { referenceMoe } from '../../reference/moe.ts';
import { readNumbers } from '../../support/golden.ts';
import { type LayerConfig, parameterSpecs } from '../../support/layer.ts';
import { type FileTensor, type FileTensors, safetensors } from './safetensors.ts';

/** The JSON text of a case: any key of the form, or of none. */
export type CaseConfig = { [key: string]: unknown };

export const CONFIG = {
  name: 'small',
  source: 'the float64 reference',
  ...{ tokens: 7, hidden: 8, intermediate: 6, experts: 5, topK: 2 },
  router: { score: 'softmax', softmaxOver: 'all', normalize: true },
  activation: 'swiglu',
} as const satisfies CaseConfig;

interface Layout {
  /** Gate and up apart instead of packed. */
  apart?: boolean;
}

/** The tensors of a case that the reference can compute. */
export function goldenTensors(config: CaseConfig = CONFIG, { apart = false }: Layout = {}): FileTensors {
  const { bias: routerBias } = config.router as { bias?: boolean };
  const layer = readNumbers(config) as LayerConfig & { bias?: boolean };
  const { tokens, hidden, topK } = layer;
  const specs = Object.entries(parameterSpecs({ ...layer, separate: apart }, routerBias ?? false));
  const shapes = Object.fromEntries(specs.map(([name, { shape }]) => [name, shape]));
  const parameters: FileTensors = {};
  for (const [i, [name, shape]] of Object.entries(shapes).entries())
    parameters[name] = randomTensor(shape, i + 3);
  const x = randomTensor([tokens, hidden], 1);
  const dy = randomTensor([tokens, hidden], 2);
  const values = Object.fromEntries(
    Object.entries(parameters).map(([name, { data }]) => [name, data as Float32Array]),
  );
  const result = referenceMoe(layer, values, x.data as Float32Array, dy.data as Float32Array);
  const gradients = Object.entries(result.gradients).map(([name, data]) => [
    `d.${name}`,
    floats(shapes[name]!, data),
  ]);
  const order = Array.from(result.indices.keys()).sort(
    (a, b) => Math.floor(a / topK) - Math.floor(b / topK) || result.indices[a]! - result.indices[b]!,
  );
  return {
    ...parameters,
    ...{ x, dy, y: floats([tokens, hidden], result.y), dx: floats([tokens, hidden], result.dx) },
    ...Object.fromEntries(gradients),
    'topk.weight': floats(
      [tokens, topK],
      order.map(slot => result.weights[slot]!),
    ),
    'topk.index': {
      dtype: 'I32',
      shape: [tokens, topK],
      data: Int32Array.from(order, slot => result.indices[slot]!),
    },
  };
}

export function goldenFile(
  config: CaseConfig = CONFIG,
  tensors: FileTensors = goldenTensors(config),
): Buffer {
  return safetensors(tensors, { case: JSON.stringify(config) });
}

export function floats(shape: number[], values: ArrayLike<number>): FileTensor {
  return { dtype: 'F32', shape, data: Float32Array.from(values) };
}

/** Of unit scale: from −√3 to √3, over the root of the last dimension for weights. */
function randomTensor(shape: number[], seed: number): FileTensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const scale = Math.sqrt(3 / (shape.length > 1 && seed > 2 ? shape.at(-1)! : 1));
  return floats(
    shape,
    Array.from({ length: size }, (_, i) => scale * (2 * fraction(seed * 7919 + i) - 1)),
  );
}

/** A hash of an integer, in [0, 1). */
function fraction(n: number): number {
  let h = Math.imul(n + 1, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32;
}
